"""Why a connection did not come about, in words that say what to do; gRPC's own are for those who debug it."""

from __future__ import annotations

# What gRPC's text holds, and what that means; the first one that fits. For any scheme, or for one of them.
CAUSES = [
    ("Connection refused", "", "nothing listens there: start a cluster with `espalier up`, or name another one with `server` or ESPALIER_SERVER"),
    ("errors resolving", "", "there is no host of this name: look at the address, or at the name service"),
    ("timed out", "", "nothing answers there in time: look at the address, and at firewalls on the way"),
    ("certificate has expired", "", "its certificate has expired: give the server a new one, and compare the clocks"),
    ("certificate is not yet valid", "", "its certificate is not valid yet: compare the clocks"),
    ("CERTIFICATE_VERIFY_FAILED", "", "its certificate was signed by a CA that is not trusted here: name the file of the cluster's CA with `ca` or ESPALIER_TLS_CA"),
    ("Hostname Verification Check failed", "", "its certificate is for another name: call it by one that the certificate holds, or name that with `server_name`"),
    ("WRONG_VERSION_NUMBER", "", "it speaks no TLS: give the address as http://"),
    ("security handshaker", "", "the files of `ca`, `cert` or `key` hold no certificate or key in PEM, or the key is of another certificate"),
    ("Socket closed", "https://", "it ended the handshake: it may ask for a certificate (`cert` and `key`), or not take the one that it was shown"),
    ("Socket closed", "http://", "it ended the connection: it may speak TLS, then give the address as https://"),
]
# How gRPC begins where no connection came about; all else is said by a server, or happened on a connection.
BEGINNINGS = ("failed to connect to all addresses", "errors resolving")


def connection(address: str, text: str) -> str | None:
    """What to tell instead of gRPC's text; none where a connection was there."""
    if not text.startswith(BEGINNINGS):
        return None
    fits = (said for part, scheme, said in CAUSES if part in text and address.startswith(scheme))
    return f"can't reach the coordinator at {address}: {next(fits, text)}"
