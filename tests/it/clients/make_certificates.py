"""Makes an authority, and certificates by it, as a private one does.

usage: make_certificates.py DIRECTORY   writes {ca,other_ca,server,renewed,sender,stranger}.{pem,key}; stranger is by
other_ca, which calls itself as ca does
"""
import datetime, ipaddress, pathlib, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

directory = pathlib.Path(sys.argv[1])
now = datetime.datetime.now(datetime.timezone.utc)


def named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def made(name, signer=None):
    """A certificate by (certificate, key); by itself, as an authority, if there is no signer."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer, signing = (signer[0].subject, signer[1]) if signer else (named(name), key)
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named(name)).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .sign(signing, hashes.SHA256())
    )
    return certificate, key


def write(name, pair):
    certificate, key = pair
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / f"{name}.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


authority = made("authority")
write("ca", authority)
for name in ["server", "renewed", "sender"]:
    write(name, made(name, authority))
other = made("authority")
write("other_ca", other)
write("stranger", made("stranger", other))
print("{}")
