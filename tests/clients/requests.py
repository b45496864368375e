"""Python's `http.client` against a running server whose --http-echo is /http: requests.py http://HOST:PORT/

Every request is sent on one connection; the peer in the answers shows that it stays the same."""

import base64
import http.client
import json
import sys
import urllib.parse

REQUESTS = 200


def echo(connection, method, body=None, **fields):
    connection.request(method, "/http?a=b", body, fields)
    response = connection.getresponse()
    assert response.status == 200, response.status
    assert response.getheader("Content-Type") == "application/json"
    return json.load(response)


def pieces():
    yield b"in three "
    yield "piec\u00e9s".encode()
    yield b"\xff"


def main(url):
    address = urllib.parse.urlsplit(url).netloc
    connection = http.client.HTTPConnection(address, timeout=60)
    peers = set()
    for number in range(REQUESTS):
        echoed = echo(connection, "GET", None, **{"X-Number": str(number)})
        assert ["X-Number", str(number)] in echoed["headers"], echoed
        peers.add(echoed["peer"])
        echoed = echo(connection, "POST", b"hello" * number)
        assert echoed["body"] == "hello" * number and echoed["body_length"] == 5 * number
        peers.add(echoed["peer"])
    # A body without a length goes out in chunks.
    echoed = echo(connection, "PUT", pieces())
    body = b"".join(pieces())
    assert echoed["body"] == {"base64": base64.b64encode(body).decode()}
    assert echoed["body_length"] == len(body)
    for path, status in [("/", 200), ("/healthz", 200), ("/no", 404)]:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == status and not response.will_close, (path, response.status)
    connection.request("OPTIONS", "*")
    response = connection.getresponse()
    response.read()
    assert (response.status, response.getheader("Allow").split(", ")[0]) == (204, "GET")
    peers.add(echo(connection, "DELETE")["peer"])
    assert len(peers) == 1, peers


main(*sys.argv[1:])
print(f"http.client: ok, {2 * REQUESTS} requests and more on one connection")
