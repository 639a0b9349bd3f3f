"""Certificates and JWTs for benchmarks, created with `openssl`."""

import base64
import json
import pathlib
import re
import subprocess
import time

ISSUER, AUDIENCE = "https://issuer.bench.example/", "ott-gateway"
LIFETIME_S = 6 * 3600
# Length of a P-256 coordinate and of each half of an ES256 signature.
P256_BYTES = 32


def openssl(folder, *arguments, data=None):
    """Runs openssl in `folder` and returns its output."""
    command = ["openssl", *arguments]
    return subprocess.run(command, cwd=folder, input=data, check=True, capture_output=True).stdout


class Certificates:
    """An authority, and a certificate for `localhost` from it."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl(folder, "req", "-x509", *key, "-days", "2", "-subj", "/CN=bench", "-keyout", "ca.key", "-out", "ca.crt")
        openssl(folder, "req", *key, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
        extensions = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
        (folder / "server.ext").write_text(extensions)
        by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "server.ext"]
        openssl(folder, "x509", "-req", "-in", "server.csr", *by, "-out", "server.crt")
        self.authority, self.certificate, self.key = folder / "ca.crt", folder / "server.crt", folder / "server.key"
        self.key.chmod(0o600)


def encoded(data):
    """Base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An issuer of JWTs with one key for RS256 and one for ES256."""

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)
        openssl(folder, "genrsa", "-out", "RS256.key", "2048")
        openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ES256.key")
        modulus = openssl(folder, "rsa", "-in", "RS256.key", "-noout", "-modulus").decode()
        # The last bytes of the public key in DER are the two coordinates.
        point = openssl(folder, "pkey", "-in", "ES256.key", "-pubout", "-outform", "DER")[-2 * P256_BYTES :]
        keys = [
            {"kid": "RS256", "kty": "RSA", "n": encoded(bytes.fromhex(modulus.strip().split("=")[1])), "e": "AQAB"},
            {"kid": "ES256", "kty": "EC", "crv": "P-256", "x": encoded(point[:P256_BYTES]), "y": encoded(point[P256_BYTES:])},
        ]
        self.jwks = self._folder / "jwks.json"
        self.jwks.write_text(json.dumps({"keys": [{**key, "alg": key["kid"], "use": "sig"} for key in keys]}))

    def token(self, algorithm, subject):
        """A JWT for a subject."""
        now = int(time.time())
        header = {"alg": algorithm, "kid": algorithm, "typ": "JWT"}
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + LIFETIME_S}
        signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
        signature = openssl(self._folder, "dgst", "-sha256", "-sign", f"{algorithm}.key", data=signed.encode())
        if algorithm == "ES256":
            signature = concatenated(self._folder, signature)
        return f"{signed}.{encoded(signature)}"


def concatenated(folder, der):
    """An ECDSA signature in DER, converted to the form of JWTs (RFC 7518, section 3.4)."""
    parsed = openssl(folder, "asn1parse", "-inform", "DER", data=der).decode()
    numbers = re.findall(r"INTEGER\s+:([0-9A-F]+)", parsed)
    return b"".join(int(number, 16).to_bytes(P256_BYTES, "big") for number in numbers)
