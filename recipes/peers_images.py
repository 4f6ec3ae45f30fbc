"""PNGs for the peers, without a library of images: all of a data set at once."""

import struct
import zlib

import numpy

from cluster import DemoError

CHANNELS = {0: 1, 2: 3}


def unpacked(png):
    """Height, width, channels, and the lines [height * (1 + width * channels)] of a PNG as they are stored."""
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", png[16:29])
    if png[:4] != b"\x89PNG" or bits != 8 or colour not in CHANNELS or interlaced:
        raise DemoError(f"an image is no plain PNG of 8 grey or RGB bits: {bits} bits, colour type {colour}, interlaced {interlaced}")
    place, packed = 8, b""
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        if kind == b"IDAT":
            packed += png[place + 8 : place + 8 + length]
        place += 12 + length
    return (height, width, CHANNELS[colour]), zlib.decompress(packed)


def pixels(cells):
    """Numbers from 0 to 255, uint8 [n, channels, y, x], of the PNGs of a data set's column `image`, all of one shape.

    Undoes the filters of the format place by place, for all images together.
    """
    shapes, lines = zip(*(unpacked(cell["bytes"]) for cell in cells))
    if len(set(shapes)) > 1:
        raise DemoError(f"images are of several shapes, such as {shapes[0]} and {next(one for one in shapes if one != shapes[0])}")
    height, width, channels = shapes[0]
    stored = numpy.frombuffer(b"".join(lines), numpy.uint8).reshape(len(cells), height, 1 + width * channels)
    how, rest = stored[:, :, 0], stored[:, :, 1:].reshape(len(cells), height, width, channels).astype(numpy.int16)
    # With a line above and a column to the left of zeros.
    image = numpy.zeros((len(cells), height + 1, width + 1, channels), numpy.int16)
    for y in range(height):
        kind = how[:, y, None]
        for x in range(width):
            left, up, corner = image[:, y + 1, x], image[:, y, x + 1], image[:, y, x]
            far = [abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)]
            nearest = numpy.where((far[0] <= far[1]) & (far[0] <= far[2]), left, numpy.where(far[1] <= far[2], up, corner))
            added = numpy.select([kind == 1, kind == 2, kind == 3, kind == 4], [left, up, (left + up) // 2, nearest], 0)
            image[:, y + 1, x + 1] = (rest[:, y, x] + added) % 256
    return image[:, 1:, 1:].astype(numpy.uint8).transpose(0, 3, 1, 2)
