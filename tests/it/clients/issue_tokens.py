"""Makes keys and tokens as an issuer does, with PyJWT.

usage: issue_tokens.py ISSUER AUDIENCE   prints {"keys": {name: JWK}, "tokens": {name: token}}
"""
import json, sys, time
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

issuer, audience = sys.argv[1:]
made = {
    "rsa": ("RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm),
    "pss": ("PS256", rsa.generate_private_key(public_exponent=65537, key_size=3072), RSAAlgorithm),
    "p256": ("ES256", ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "p384": ("ES384", ec.generate_private_key(ec.SECP384R1()), ECAlgorithm),
    "edwards": ("EdDSA", ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
}
keys = {name: {**kind.to_jwk(key.public_key(), as_dict=True), "kid": name} for name, (_, key, kind) in made.items()}
good = {"iss": issuer, "aud": audience, "sub": "python", "exp": int(time.time()) + 3600,
        "scope": "openid publish:shop.account.*"}


def token(name, **claims):
    algorithm, key, _ = made[name]
    return jwt.encode({**good, **claims}, key, algorithm=algorithm, headers={"kid": name})


tokens = {name: token(name) for name in made}
tokens["array"] = token("rsa", scope=["publish:*"], aud=["another", audience])
tokens["expired"] = token("rsa", exp=int(time.time()) - 3600)
tokens["early"] = token("rsa", nbf=int(time.time()) + 3600)
tokens["stranger"] = token("rsa", iss="https://id.example")
tokens["others"] = token("rsa", aud="another")
tokens["orders"] = token("rsa", scope="publish:shop.order.*")
tokens["limited"] = token("rsa", sub="limited")
tokens["unsigned"] = jwt.encode(good, None, algorithm="none", headers={"kid": "rsa"})
print(json.dumps({"keys": keys, "tokens": tokens}))
