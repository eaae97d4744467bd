"""An HTTP/1.1 server that says hello to every request: keep-alive, pipelining, HEAD, and 400 if it is bad.

Run it, and talk to it:

    python examples/http_hello.py
    curl -i http://127.0.0.1:8888/
"""

import argparse
import asyncio
import re
from typing import cast

from common import parser, serve

import proactorx

FIELD = rb"\r\n([!#-'*+.0-9A-Z^-z|~-]+):[ \t]*([^\r\n\0]*)"
REQUEST = re.compile(rb"([A-Z]+) [!-~]+ HTTP/1\.([01])((?:%b)*)" % FIELD)


def response(status: bytes, fields: bytes = b"Connection: close\r\n", body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, fields, len(body), body)


def respond(head: bytes) -> tuple[bytes, int | None]:
    """The response to a request, and the length of its body: None if the connection ends here."""
    if (request := REQUEST.fullmatch(head.lstrip(b"\r\n"))) is None:
        return response(b"400 Bad Request"), None
    headers: dict[bytes, bytes] = {}
    for name, value in re.findall(FIELD, request[3].lower()):
        headers[name] = headers[name] + b"," + value if name in headers else value
    length = headers.get(b"content-length", b"0")
    if not re.fullmatch(rb"\d{1,18}[ \t]*", length) or (request[2] == b"1" and b"host" not in headers):
        return response(b"400 Bad Request"), None
    if b"transfer-encoding" in headers:  # chunked bodies are not parsed, so the next request cannot be found
        return response(b"501 Not Implemented"), None
    keep = b"close" not in headers.get(b"connection", b"" if request[2] == b"1" else b"close")
    keep = keep and b"expect" not in headers  # a client that waits for "100 Continue" may never send its body
    fields = b"Content-Type: text/plain\r\nConnection: %b\r\n" % (b"keep-alive" if keep else b"close")
    hello = response(b"200 OK", fields, b"Hello from proactorx!\n")
    if request[1] == b"HEAD":
        hello = hello[: hello.index(b"\r\n\r\n") + 4]
    return hello, int(length) if keep else None


class Http(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.received, self.skip = b"", 0

    def data_received(self, data: bytes) -> None:
        received, start, responses = self.received + data, self.skip, list[bytes]()
        body: int | None = 0
        while body is not None and (end := received.find(b"\r\n\r\n", start)) >= 0:
            text, body = respond(received[start:end])
            responses.append(text)
            start = end + 4 + (body or 0)
        self.received, self.skip = received[start:], max(0, start - len(received))
        if body is not None and len(self.received) > 16 * 1024:
            responses.append(response(b"431 Request Header Fields Too Large"))
            body = None
        self.transport.write(b"".join(responses))
        if body is None:
            self.transport.close()

    def pause_writing(self) -> None:  # requests arrive, but the client does not read the responses
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def main(args: argparse.Namespace) -> None:
    await serve(await asyncio.get_running_loop().create_server(Http, args.host, args.port))


if __name__ == "__main__":
    args = parser(__doc__).parse_args()
    proactorx.run(main(args), backend=args.backend)
