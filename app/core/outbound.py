"""The one policy for every address that a user gives and the server calls: no way into the inner network.

A name is resolved once, every address it has is judged, and the connection goes to an address that was judged: a name that
resolves to something else a moment later (DNS rebinding) changes nothing. Redirects are for the caller to refuse.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.core.errors import InvalidError
from app.settings import get_settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MAX_URL = 2000
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def check_url(url: str) -> None:
    """Raises InvalidError (field ``url``) where this address may not be called."""
    resolve(url)


def resolve(url: str) -> tuple[str, int, list[str]]:
    """(host, port, the addresses that may be called). Raises InvalidError saying what is wrong and who can allow it."""
    host, port, scheme = _parts(url)
    found = _lookup(host, port)
    allowed = is_allowed_host(host) or all(_is_allowed(address) for address in found)
    if not allowed and (bad := [address for address in found if not is_public(address)]):
        raise _refused(
            f"{host} is {bad[0]}, an address inside this network. An operator allows it with KTO_ALLOW_PRIVATE_ENDPOINTS."
        )
    if scheme == "http" and not allowed:
        raise _refused("Use https: a key would travel in the open. http is for hosts that an operator has allowed.")
    return host, port, [str(address) for address in found]


def _parts(url: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _refused("This is not an address. Write it as https://host/v1.") from error
    if parts.scheme not in {"http", "https"} or not host or len(url) > MAX_URL or not url.isprintable():
        raise _refused("This is not an address. Write it as https://host/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _refused("Leave out names, passwords, ? and #: a key has a field of its own.")
    return host.rstrip(".").lower(), port or (443 if parts.scheme == "https" else 80), parts.scheme


def _lookup(host: str, port: int) -> list[Address]:
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refused(f"{host} cannot be found. Check the spelling.") from error
    found: dict[str, Address] = {}
    for info in infos:
        text = str(info[4][0]).partition("%")[0]
        found[text] = ipaddress.ip_address(text)
    return list(found.values())


def is_public(address: Address) -> bool:
    """Whether an address is the internet's: no loopback, private, link-local, metadata, multicast or reserved one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def is_allowed_host(host: str) -> bool:
    return host in {entry.strip().lower() for entry in get_settings().allow_private_endpoints}


def _is_allowed(address: Address) -> bool:
    for entry in get_settings().allow_private_endpoints:
        try:
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue  # a host's name
    return False


def _refused(text: str) -> InvalidError:
    return InvalidError("This address may not be called.", fields={"url": text})


class PinnedTransport(httpx.HTTPTransport):
    """Judges every request's address and connects to what was judged; TLS still checks the name."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host, _, addresses = resolve(str(request.url.copy_with(query=None, fragment=None)))
        request.headers.setdefault("host", request.url.netloc.decode("ascii"))
        request.extensions = {**request.extensions, "sni_hostname": host}
        literal = addresses[0]
        request.url = request.url.copy_with(host=literal)
        return super().handle_request(request)


def validate(url: str) -> None:
    """``check_url`` as the judging client takes it. Raises ValueError."""
    try:
        check_url(url)
    except InvalidError as error:
        raise ValueError(next(iter(error.fields.values()), error.message)) from error


def transport(**options: Any) -> PinnedTransport:
    return PinnedTransport(trust_env=False, **options)
