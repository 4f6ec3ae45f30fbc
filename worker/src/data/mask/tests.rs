use super::*;

fn reader([height, width]: [usize; 2], classes: usize) -> MaskReader {
    let media = MediaReader::plain([1, height, width]);
    MaskReader::new(Arc::new(media), classes, 255)
}

/// A PNG of `size` (height, width) with packed lines.
fn packed(color: ColorType, depth: BitDepth, [height, width]: [u32; 2], lines: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ColorType::Indexed {
        encoder.set_palette(vec![200_u8; 3 * 4]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(lines).unwrap();
    writer.finish().unwrap();
    bytes
}

fn read(reader: &MaskReader, cell: Cell) -> Result<Vec<u8>, String> {
    let read = reader.read(cell, "mask", Path::new(""));
    read.map_err(|problem| problem.to_string())
}

/// Values are those that are stored: no grey level is stretched, no palette is looked up.
#[test]
fn values_are_taken_as_they_are_stored() {
    let reader = reader([2, 3], 4);
    // Two bits a value: 0 1 2, 3 2 1, each line filled up to a byte.
    let lines = [0b0001_1000, 0b1110_0100];
    for color in [ColorType::Grayscale, ColorType::Indexed] {
        let bytes = packed(color, BitDepth::Two, [2, 3], &lines);
        assert_eq!(
            read(&reader, Cell::Bytes(bytes)),
            Ok(vec![0, 1, 2, 3, 2, 1])
        );
    }
    let bytes = packed(
        ColorType::Grayscale,
        BitDepth::Eight,
        [2, 3],
        &[0, 1, 2, 3, 255, 0],
    );
    let whole = vec![0, 1, 2, 3, 255, 0];
    let field = |name: &str, cell| (name.to_owned(), cell);
    let fields = vec![
        field("bytes", Cell::Bytes(bytes)),
        field("path", Cell::Null),
    ];
    assert_eq!(read(&reader, Cell::Struct(fields)), Ok(whole.clone()));
    let rows = [[0, 1, 2], [3, 255, 0]].map(|row| Cell::List(row.map(Cell::Int).to_vec()));
    assert_eq!(read(&reader, Cell::List(rows.to_vec())), Ok(whole));
}

/// Another size is that of the nearest pixels: no class is made up between two others.
#[test]
fn masks_are_resized_by_the_nearest() {
    let picture = Picture {
        size: [2, 4],
        values: vec![0, 1, 2, 3, 4, 5, 6, 7],
    };
    let resized = |size| resized(&picture, &Cut::all(size));
    assert_eq!(resized([1, 2]), [5, 7]);
    assert_eq!(
        resized([4, 4]),
        [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    );
    assert_eq!(resized([2, 3]), [0, 2, 3, 4, 6, 7]);
}

// Promise: where the middle is cut out of images, a mask's file loses what its image loses; a list has the
// backbone's size already.
#[test]
fn masks_are_cut_as_their_images() {
    let dir = tempfile::tempdir().unwrap();
    let config = "{\"size\": 2, \"crop_pct\": 0.5}";
    std::fs::write(dir.path().join("preprocessor_config.json"), config).unwrap();
    let media = MediaReader::load(dir.path(), [1, 2, 2]).unwrap();
    let reader = MaskReader::new(Arc::new(media), 24, 255);
    // Four rows of six, as large as an image is before it is cut; then twice as large.
    let values: Vec<u8> = (0..24).collect();
    let (grey, depth) = (ColorType::Grayscale, BitDepth::Eight);
    let bytes = packed(grey, depth, [4, 6], &values);
    assert_eq!(read(&reader, Cell::Bytes(bytes)), Ok(vec![8, 9, 14, 15]));
    let large: Vec<u8> = (0..96)
        .map(|at| values[at / 24 * 6 + at % 12 / 2])
        .collect();
    let bytes = packed(grey, depth, [8, 12], &large);
    assert_eq!(read(&reader, Cell::Bytes(bytes)), Ok(vec![8, 9, 14, 15]));
    let list = Cell::List([0, 1, 2, 3].map(Cell::Int).to_vec());
    assert_eq!(read(&reader, list), Ok(vec![0, 1, 2, 3]));
    let long = packed(grey, depth, [1, 20_000], &[0; 20_000]);
    let error = read(&reader, Cell::Bytes(long)).unwrap_err();
    assert!(error.contains("the image is 1 x 20000"), "{error}");
}

/// What is no mask, and values that are no class, are told with what was expected.
#[test]
fn what_is_no_mask_is_told() {
    let reader = reader([1, 2], 3);
    let said = |cell: Cell, part: &str| {
        let error = read(&reader, cell).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    let rgb = packed(ColorType::Rgb, BitDepth::Eight, [1, 2], &[0; 6]);
    said(Cell::Bytes(rgb), "grey or palette values");
    let deep = packed(ColorType::Grayscale, BitDepth::Sixteen, [1, 2], &[0; 4]);
    said(Cell::Bytes(deep), "16 bits");
    said(Cell::Bytes(b"\xff\xd8\xff".to_vec()), "JPEG");
    said(Cell::Int(3), "a mask");
    let grey = packed(ColorType::Grayscale, BitDepth::Eight, [1, 2], &[0, 3]);
    said(Cell::Bytes(grey.clone()), "found 3 in row 1, column 2");
    said(Cell::Bytes(grey[..45].to_vec()), "damaged");
    // Of one bit a value: 2^28 bytes would be 2^31 values.
    let mut claims = Vec::new();
    let mut encoder = png::Encoder::new(&mut claims, 1 << 15, 1 << 16);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::One);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &[0]).unwrap();
    drop(writer);
    said(Cell::Bytes(claims), "it says that it has more than");
    said(Cell::List(vec![Cell::Int(0)]), "expected 2 numbers");
    said(
        Cell::List(vec![Cell::Int(0), Cell::Float(0.5)]),
        "whole numbers",
    );
}

/// A mask that was written is read back with the same values.
#[test]
fn what_is_written_is_read_back() {
    let values: Vec<u8> = (0..=255).collect();
    let bytes = mask_png(&values, [16, 16]).unwrap();
    let size = [16, 16];
    assert_eq!(decode(&bytes), Ok(Picture { size, values }));
    assert_eq!(color(0), [0, 0, 0]);
    assert_eq!(color(1), [128, 0, 0]);
    assert_eq!(color(15), [192, 128, 128]);
    assert!(mask_png(&[1, 2], [1, 3]).is_err());
}
