"""Who may do what: API keys and scopes, loopback, TLS."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import stat
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ledger.api import keys
from ledger.api.app import ROUTES
from ledger.api.keys import KeyRing, create_key, list_keys, revoke_key
from ledger.api.server import Server, Tls
from ledger.config import Config
from ledger.engine import Engine
from ledger.errors import ConfigurationError
from ledger.storage.memory import MemoryStore
from tests.api.harness import EXAMPLES, running

CLOSED = [route for route in ROUTES if route.scopes]


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def test_every_route_asks_for_its_scope(tmp_path: Path) -> None:
    texts = {
        scope: create_key(tmp_path, name=scope, scopes=(scope,))[1] for scope in sorted(keys.SCOPES)
    }
    async with running(keys=KeyRing(tmp_path)) as service:
        service.context.open_metrics = False
        service.session.headers.update(bearer(texts["admin"]))
        await service.bank()
        await service.transfer(90, 1, 2, 5)
        service.session.headers.clear()
        for route in ROUTES:
            method, path, body = EXAMPLES[route.name]
            answer = await service.call(method, path, body)
            assert answer.status == (401 if route.scopes else 200), route.name
            if not route.scopes:
                continue
            assert answer.code == "key_missing"
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            for scope, text in texts.items():
                answer = await service.call(method, path, body, headers=bearer(text))
                allowed = scope == "admin" or scope in route.scopes
                allowed |= scope == "audit" and "read" in route.scopes
                assert answer.status == (200 if allowed else 403), (route.name, scope)
                if not allowed:
                    assert answer.code == "scope_missing"


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Basic {key}",
        "{key}",
        "Bearer {key}x",
        "Bearer sanyuan_000000000000_" + "A" * 43,
        "Bearer é",
    ],
)
async def test_a_wrong_key_is_turned_away(tmp_path: Path, header: str) -> None:
    _, text = create_key(tmp_path, name="one", scopes=("read",))
    wrong_secret = text[:-1] + ("A" if text[-1] != "A" else "B")
    async with running(keys=KeyRing(tmp_path)) as service:
        assert (await service.get("/v1/accounts/1")).status == 401
        for value in (header.format(key=text), f"Bearer {wrong_secret}"):
            answer = await service.call("GET", "/v1/accounts/1", headers={"Authorization": value})
            assert answer.status == 401
            assert answer.code in ("key_missing", "key_unknown")
            assert text not in answer.raw.decode()
        answer = await service.call(
            "GET", "/v1/accounts/1", headers={"Authorization": f"bearer  {text}"}
        )
        assert answer.status == 404


async def test_metrics_are_open_on_loopback_only(tmp_path: Path) -> None:
    create_key(tmp_path, name="one", scopes=("read",))
    async with running(keys=KeyRing(tmp_path)) as service:
        assert (await service.get("/metrics")).status == 200
        service.context.open_metrics = False
        assert (await service.get("/metrics")).status == 401


async def test_a_running_server_sees_new_and_revoked_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, first = create_key(tmp_path, name="first", scopes=("read",))
    async with running(keys=KeyRing(tmp_path)) as service:
        ring = service.context.keys
        assert ring is not None
        _, second = create_key(tmp_path, name="second", scopes=("read",))
        assert revoke_key(tmp_path, "first") == key
        ring._looked_at_s = -10.0  # as if a second had passed
        assert (
            await service.call("GET", "/v1/trial-balance", headers=bearer(first))
        ).code == "key_unknown"
        answer = await service.call("GET", "/v1/trial-balance", headers=bearer(second))
        assert answer.status == 200
        (tmp_path / keys.FILE_NAME).unlink()
        ring._looked_at_s = -10.0
        answer = await service.call("GET", "/v1/trial-balance", headers=bearer(second))
        assert answer.status == 401


def test_keys_are_stored_as_hashes_in_a_file_of_the_owner(tmp_path: Path) -> None:
    key, text = create_key(tmp_path, name="bank core", scopes=("transfers:write", "read", "read"))
    assert key.scopes == ("read", "transfers:write")
    path = tmp_path / keys.FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = text.rsplit("_", 1)[1] if text.count("_") == 2 else text[len("sanyuan_") + 13 :]
    assert secret not in path.read_text()
    assert list_keys(tmp_path) == [key]
    assert KeyRing(tmp_path).find(text) == key
    other, _ = create_key(tmp_path, name="other", scopes=("audit",))
    assert list_keys(tmp_path) == [key, other]
    assert revoke_key(tmp_path, key.id) == key
    assert list_keys(tmp_path) == [other]
    assert list_keys(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("name", "scopes"),
    [("x", ()), ("x", ("write",)), ("", ("read",)), ("a\nb", ("read",)), ("taken", ("read",))],
)
def test_a_key_needs_a_name_and_known_scopes(
    tmp_path: Path, name: str, scopes: tuple[str, ...]
) -> None:
    create_key(tmp_path, name="taken", scopes=("read",))
    before = (tmp_path / keys.FILE_NAME).read_bytes()
    with pytest.raises(ConfigurationError):
        create_key(tmp_path, name=name, scopes=scopes)
    with pytest.raises(ConfigurationError, match="nobody"):
        revoke_key(tmp_path, "nobody")
    assert (tmp_path / keys.FILE_NAME).read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version":1}',
        '{"version":2,"keys":[]}',
        '{"version":1,"keys":[{"id":"1"}]}',
        '{"version":1,"keys":[{"id":"1","name":"n","scopes":["read"],"digest":"x","created_at_ns":1}]}',
    ],
)
def test_a_damaged_file_of_keys_lets_nobody_in(tmp_path: Path, text: str) -> None:
    (tmp_path / keys.FILE_NAME).write_text(text)
    with pytest.raises(ConfigurationError, match=keys.FILE_NAME):
        KeyRing(tmp_path)
    with pytest.raises(ConfigurationError):
        create_key(tmp_path, name="n", scopes=("read",))
    assert (tmp_path / keys.FILE_NAME).read_text() == text


def test_without_keys_only_loopback(tmp_path: Path) -> None:
    engine = Engine(MemoryStore(Config()), Config())
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigurationError, match="API key"):
            Server(engine, host=host)
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        Server(engine, host=host)
    with pytest.raises(ConfigurationError, match="no API key"):
        KeyRing(tmp_path)
    create_key(tmp_path, name="one", scopes=("read",))
    Server(engine, host="0.0.0.0", keys=KeyRing(tmp_path))


async def test_an_address_that_is_taken_is_named() -> None:
    async with running(start_engine=False) as service:
        port = int(service.server.url.rsplit(":", 1)[1])
        engine = Engine(MemoryStore(Config()), Config())
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}"):
            await Server(engine, port=port).start()


# ----------------------------------------------------------------------------------------------
# TLS
# ----------------------------------------------------------------------------------------------


def make_certificate(
    directory: Path,
    name: str,
    *,
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for localhost, signed by itself or by another, as NAME.pem and NAME.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    issuer, issuer_key = (signer[0].subject, signer[1]) if signer else (subject, key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, key


async def ready_over_tls(url: str, context: ssl.SSLContext) -> int:
    address = url.replace("127.0.0.1", "localhost") + "/readyz"
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.get(address) as response:
            assert json.loads(await response.read())["ready"]
            return response.status


async def test_tls_and_mutual_tls(tmp_path: Path) -> None:
    authority = make_certificate(tmp_path, "authority", signer=None)
    make_certificate(tmp_path, "server", signer=authority)
    make_certificate(tmp_path, "client", signer=authority)
    make_certificate(tmp_path, "stranger", signer=None)
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    trusting = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    async with running(tls=Tls(certificate, key)) as service:
        assert service.server.url.startswith("https://")
        assert await ready_over_tls(service.server.url, trusting) == 200
        with pytest.raises(aiohttp.ClientError):
            await ready_over_tls(service.server.url, ssl.create_default_context())
    async with running(tls=Tls(certificate, key, tmp_path / "authority.pem")) as service:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await ready_over_tls(service.server.url, trusting)
        for name, welcome in (("client", True), ("stranger", False)):
            mine = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
            mine.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
            if welcome:
                assert await ready_over_tls(service.server.url, mine) == 200
            else:
                with pytest.raises((aiohttp.ClientError, ConnectionError)):
                    await ready_over_tls(service.server.url, mine)
    with pytest.raises(ConfigurationError, match="TLS"):
        Tls(tmp_path / "missing.pem", key).context()
    await asyncio.sleep(0)
