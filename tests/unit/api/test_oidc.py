"""JWTs of an OpenID Connect provider: what holds, and every attack of RFC 8725 that does not."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from harness import Clock

from api.auth import OidcConfig, OidcVerifier, Unauthenticated
from tasks.errors import Unavailable

ISSUER, AUDIENCE = "https://id.example.com", "clonejob"


@pytest.fixture(scope="module")
def keys():
    return {
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "rsa2": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "short": rsa.generate_private_key(public_exponent=65537, key_size=1024),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }


def jwk(key, kid, **more):
    cls = {"RSA": jwt.algorithms.RSAAlgorithm, "EC": jwt.algorithms.ECAlgorithm}
    kind = "RSA" if hasattr(key, "key_size") and not hasattr(key, "curve") else "EC" if hasattr(key, "curve") else ""
    made = cls.get(kind, jwt.algorithms.OKPAlgorithm).to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": kid, "use": "sig", **more}


class Provider:
    """The published keys, and a count of how often they were asked for."""

    def __init__(self, *entries):
        self.entries = list(entries)
        self.asked = 0
        self.broken = None

    def __call__(self, where):
        self.asked += 1
        if self.broken:
            raise self.broken
        return json.dumps({"keys": self.entries}).encode()


def verifier(provider, clock=None, **changes):
    config = {"issuer": ISSUER, "audience": AUDIENCE, "keys": "https://id.example.com/jwks", **changes}
    clock = clock or Clock()
    return OidcVerifier(OidcConfig(**config), fetch=provider, clock=clock.timestamp)


def claims(**changes):
    now = int(time.time())
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 300, **changes}
    return {name: value for name, value in made.items() if value is not None}


def sign(key, algorithm="RS256", kid="k1", headers=None, **changes):
    return jwt.encode(claims(**changes), key, algorithm, headers={**({"kid": kid} if kid else {}), **(headers or {})})


def refused(verify, token, part=""):
    with pytest.raises(Unauthenticated) as caught:
        verify.principal(token)
    assert part in str(caught.value)
    assert token not in str(caught.value)
    assert caught.value.headers["WWW-Authenticate"] == 'Bearer realm="clonejob", error="invalid_token"'


@pytest.fixture
def good(keys):
    return verifier(Provider(jwk(keys["rsa"], "k1")))


def test_a_token_that_holds(keys, good):
    assert good.principal(sign(keys["rsa"])) == "user:ann"
    assert good.principal(sign(keys["rsa"], aud=["other", AUDIENCE])) == "user:ann"
    assert good.principal(sign(keys["rsa"], kid=None)) == "user:ann"  # one key: no doubt which


@pytest.mark.parametrize(("kind", "algorithm"), [("rsa", "PS384"), ("ec", "ES256"), ("ed", "EdDSA")])
def test_algorithms_that_are_configured(keys, kind, algorithm):
    verify = verifier(Provider(jwk(keys[kind], "k1")), algorithms=(algorithm,))
    assert verify.principal(sign(keys[kind], algorithm)) == "user:ann"
    refused(verify, sign(keys["rsa"]), f"must be signed with one of {algorithm}")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"iss": "https://evil.example.com"}, "InvalidIssuer"),
        ({"iss": None}, "iss"),
        ({"aud": "another"}, "InvalidAudience"),
        ({"aud": None}, "aud"),
        ({"exp": None}, "exp"),
        ({"exp": int(time.time()) - 31}, "ExpiredSignature"),
        ({"nbf": int(time.time()) + 86_400}, "ImmatureSignature"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "a b"}, "sub"),
        ({"sub": "x" * 300}, "sub"),
        ({"sub": "a\nb"}, "sub"),
    ],
)
def test_claims_that_do_not_hold(keys, good, changes, part):
    refused(good, sign(keys["rsa"], **changes), part)


def test_leeway(keys, good):
    assert good.principal(sign(keys["rsa"], exp=int(time.time()) - 20)) == "user:ann"


def b64(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_none_is_no_algorithm(good):
    for name in ("none", "None", "NONE", "", None, 5):
        refused(good, f"{b64({'alg': name, 'kid': 'k1'})}.{b64(claims())}.")


def test_hmac_with_the_public_key_is_no_signature(keys, good):
    """The confusion of RFC 8725 §2.1: the public key, as text, used as the secret of HS256."""
    import hashlib
    import hmac

    public = (
        keys["rsa"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signed = f"{b64({'alg': 'HS256', 'kid': 'k1'})}.{b64(claims())}"
    mac = base64.urlsafe_b64encode(hmac.new(public, signed.encode(), hashlib.sha256).digest()).decode().rstrip("=")
    refused(good, f"{signed}.{mac}", "must be signed with one of")
    with pytest.raises(ValueError, match="HS256"):
        verifier(Provider(), algorithms=("HS256",))


def test_another_key_and_a_changed_payload(keys, good):
    refused(good, sign(keys["rsa2"]), "InvalidSignature")
    head, _, signature = sign(keys["rsa"]).split(".")
    refused(good, f"{head}.{b64(claims(sub='root'))}.{signature}", "InvalidSignature")


def test_keys_in_the_header_are_not_followed(keys, good):
    own = {"jwk": jwk(keys["rsa2"], "k1"), "jku": "https://evil.example.com/jwks", "x5u": "https://evil.example.com/x"}
    refused(good, sign(keys["rsa2"], headers=own), "InvalidSignature")
    refused(good, sign(keys["rsa"], headers={"crit": ["exp"]}), "")


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_key_serves_its_own_purpose_only(keys):
    refused(verifier(Provider(jwk(keys["rsa"], "k1", use="enc"))), sign(keys["rsa"]), "does not publish")
    refused(verifier(Provider(jwk(keys["rsa"], "k1", alg="RS512"))), sign(keys["rsa"]), "does not publish")
    refused(verifier(Provider(jwk(keys["short"], "k1"))), sign(keys["short"]), "less than 2048 bits")
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}
    refused(verifier(Provider(secret)), sign(keys["rsa"]), "does not publish")
    refused(verifier(Provider("nonsense", {}, {"kty": "RSA", "kid": "k1"})), sign(keys["rsa"]))


def test_without_a_key_id_two_keys_are_one_too_many(keys):
    verify = verifier(Provider(jwk(keys["rsa"], "k1"), jwk(keys["rsa2"], "k2")))
    refused(verify, sign(keys["rsa"], kid=None), "does not publish")
    assert verify.principal(sign(keys["rsa2"], kid="k2")) == "user:ann"


def test_rotation_asks_again_but_not_for_every_stranger(keys):
    clock, provider = Clock(), Provider(jwk(keys["rsa"], "k1"))
    verify = verifier(provider, clock)
    verify.principal(sign(keys["rsa"]))
    provider.entries = [jwk(keys["rsa2"], "k2")]
    clock.advance(11)
    assert verify.principal(sign(keys["rsa2"], kid="k2")) == "user:ann"  # at once, long before 300 s
    assert provider.asked == 2
    for number in range(20):
        refused(verify, sign(keys["rsa"], kid=f"stranger-{number}"), "does not publish")
    refused(verify, sign(keys["rsa"]), "does not publish")  # the old key is gone
    assert provider.asked == 2


def test_a_provider_that_does_not_answer(keys):
    clock, provider = Clock(), Provider(jwk(keys["rsa"], "k1"))
    provider.broken = OSError("connection refused")
    verify = verifier(provider, clock)
    with pytest.raises(Unavailable) as caught:
        verify.principal(sign(keys["rsa"]))
    assert caught.value.reason == "KEYS_UNAVAILABLE"
    clock.advance(11)
    provider.broken = None
    assert verify.principal(sign(keys["rsa"])) == "user:ann"
    provider.broken = ValueError("no JSON")
    clock.advance(3500)
    assert verify.principal(sign(keys["rsa"])) == "user:ann"  # for an hour the old keys do
    clock.advance(200)
    with pytest.raises(Unavailable):
        verify.principal(sign(keys["rsa"]))


def test_the_email_counts_only_if_it_is_verified(keys):
    verify = verifier(Provider(jwk(keys["rsa"], "k1")), claim="email")
    assert verify.principal(sign(keys["rsa"], email="Ann@Example.com", email_verified=True)) == "user:ann@example.com"
    for wrong in ({}, {"email_verified": False}, {"email_verified": "true"}):
        refused(verify, sign(keys["rsa"], email="ann@example.com", **wrong), "not verified")
    refused(verify, sign(keys["rsa"]), "email")


@pytest.mark.parametrize("nonsense", ["", ".", "..", "a.b.c", "x" * 10_000, "é.é.é", f"{b64([])}.{b64([])}.x"])
def test_nonsense(good, nonsense):
    with pytest.raises(Unauthenticated):
        good.principal(nonsense)


def test_keys_from_a_file_are_read_again(keys, tmp_path):
    clock, file = Clock(), tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(keys["rsa"], "k1")]}))
    config = OidcConfig(ISSUER, AUDIENCE, str(file))
    verify = OidcVerifier(config, clock=clock.timestamp)
    assert verify.principal(sign(keys["rsa"])) == "user:ann"
    file.write_text(json.dumps({"keys": [jwk(keys["rsa2"], "k2")]}))
    clock.advance(11)
    refused(verify, sign(keys["rsa"]), "does not publish")
