"""Stands between the gateway and its upstream and remembers what the upstream heard. Bytes pass unchanged, ends and cuts too.

    ear.py UPSTREAM_HOST:PORT      prints "pass PORT" and "tell PORT", then serves until it is killed

GET /?mark=TEXT on the second port: the latest request whose path or body has TEXT in it, as {"path", "headers", "body"}.
Knows HTTP/1.1 requests with a stated length or in chunks; no other ones come here.
"""

import collections
import http.server
import json
import socket
import sys
import threading
import urllib.parse

HEARD = collections.deque(maxlen=1000)


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    teller = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Teller)
    threading.Thread(target=teller.serve_forever, daemon=True).start()
    print(f"pass {listener.getsockname()[1]}\ntell {teller.server_address[1]}", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=carry, args=(client, (host, int(port))), daemon=True).start()


def carry(client, address):
    try:
        upstream = socket.create_connection(address)
    except OSError:
        client.close()
        return
    for one in (client, upstream):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=pump, args=(upstream, client, lambda data: None), daemon=True).start()
    pump(client, upstream, Requests().push)


def pump(source, sink, note):
    try:
        while data := source.recv(65536):
            note(data)
            sink.sendall(data)
    except OSError:
        pass
    for one in (source, sink):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()


class Requests:
    """The requests of one connection, out of its bytes."""

    def __init__(self):
        self.buffer = b""
        self.deaf = False

    def push(self, data):
        if self.deaf:
            return
        self.buffer += data
        while self.take():
            pass

    def take(self):
        head, blank, rest = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return False
        lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            taken = dechunk(rest)
            if taken is None:
                return False
            body, self.buffer = taken
        else:
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return False
            body, self.buffer = rest[:length], rest[length:]
        HEARD.append({"path": lines[0].split(" ")[1], "headers": headers, "body": body.decode("utf-8", "replace")})
        # What follows an upgrade are no requests.
        self.deaf = "upgrade" in headers
        return not self.deaf


def dechunk(rest):
    body = b""
    while True:
        size, line, after = rest.partition(b"\r\n")
        if not line:
            return None
        length = int(size.split(b";")[0], 16)
        if len(after) < length + 2:
            return None
        body += after[:length]
        rest = after[length + 2 :]
        if length == 0:
            return body, rest


class Teller(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mark = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("mark", [""])[0]
        found = next((one for one in reversed(list(HEARD)) if mark in one["path"] or mark in one["body"]), None)
        answer = json.dumps(found).encode()
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


main()
