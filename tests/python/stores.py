"""An S3 server and an HTTP server over the files of a folder, for tests: stores.py FOLDER.

Prints one line of JSON with the addresses of both and ends when its standard input does, so that no
test leaves one behind. Every file is an object of the bucket `bucket`, with its path as the key. Needs
.espalier/pys3 (deploy/setup/setup.py s3) on PYTHONPATH.
"""

import functools
import http.server
import json
import sys
import threading
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def main():
    folder = Path(sys.argv[1])
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1",
                          aws_access_key_id="id", aws_secret_access_key="secret")
    client.create_bucket(Bucket="bucket")
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            client.upload_file(str(file), "bucket", file.relative_to(folder).as_posix())
    handler = functools.partial(Quiet, directory=str(folder))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    print(json.dumps({"s3": url, "http": f"http://127.0.0.1:{web.server_port}"}), flush=True)
    sys.stdin.read()
    s3.stop()


if __name__ == "__main__":
    main()
