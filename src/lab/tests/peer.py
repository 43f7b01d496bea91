"""
The protocol of draft/wire.md a second time. It was written from that page alone: so the page is enough.

  peer.py vectors draft/wire.md          do we make the bytes that the page shows?
  peer.py client SERVER SECRET [EVERY]   EVERY: seconds until we ask for fresh keys
  peer.py server SECRET                  for any number of clients

It needs Python 3 and OpenSSL's libcrypto, and the other end needs --offload off. Left out: connecting again,
tokens, IPv6, the rules for the addresses of payload 2. A client that is stuck makes its server wait.
peer_udp.py puts the same sessions into datagrams.
"""
import ctypes, ctypes.util, fcntl, functools, hashlib, hmac, ipaddress, json, os, re, select, socket, struct
import subprocess, sys, time

HANDSHAKE, DATA, CONTROL = 1, 2, 3
WORDS = {name: bytes([0, 0, 0, i + 1]) for i, name in enumerate(["keepalive", "goodbye", "rekey", "switch"])}
KEEPALIVE, GOODBYE, REKEY, SWITCH = WORDS.values()
FIRST, AGAIN = b"simple-vpn/1", b"simple-vpn/1 rekey"  # the prologues
SUBNET, MTU = ipaddress.ip_network("10.8.0.0/24"), 1400  # our server's, which has the first address itself
now, say = time.monotonic, functools.partial(print, flush=True)

class End(Exception):
    """The session ends, and why."""

def must(holds, why="OpenSSL refuses"):
    if not holds: raise End(why)

# ---- OpenSSL: each function returns 1, or a pointer ----
class Pointer(ctypes.c_void_p): pass
crypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
MAKERS = "PKEY_new_raw_private_key PKEY_new_raw_public_key PKEY_CTX_new CIPHER_CTX_new aes_256_gcm"
for name in MAKERS.split():
    getattr(crypto, "EVP_" + name).restype = Pointer

def x25519(private, public=None):
    """What a private key shares with another's public key; without that, its own public key."""
    out, size = ctypes.create_string_buffer(32), ctypes.byref(ctypes.c_size_t(32))
    own = crypto.EVP_PKEY_new_raw_private_key(1034, None, private, 32)  # 1034: EVP_PKEY_X25519
    if public is None:
        must(crypto.EVP_PKEY_get_raw_public_key(own, out, size) == 1)
    else:
        other = crypto.EVP_PKEY_new_raw_public_key(1034, None, public, 32)
        work = crypto.EVP_PKEY_CTX_new(own, None)
        must(crypto.EVP_PKEY_derive_init(work) == 1)
        must(crypto.EVP_PKEY_derive_set_peer(work, other) == 1)
        must(crypto.EVP_PKEY_derive(work, out, size) == 1 and out.raw != bytes(32), "a public key is no good")
        crypto.EVP_PKEY_CTX_free(work)
        crypto.EVP_PKEY_free(other)
    crypto.EVP_PKEY_free(own)
    return out.raw

def gcm(key, nonce, additional, text, tag=None):
    """AES-256-GCM. With a tag it opens; without one it seals, and the new tag stands behind the rest."""
    n, out, end = ctypes.byref(ctypes.c_int()), *map(ctypes.create_string_buffer, (len(text), tag or 16))
    work = crypto.EVP_CIPHER_CTX_new()
    must(crypto.EVP_CipherInit_ex(work, crypto.EVP_aes_256_gcm(), None, key, nonce, tag is None) == 1)
    if tag: must(crypto.EVP_CIPHER_CTX_ctrl(work, 0x11, 16, end) == 1)  # EVP_CTRL_AEAD_SET_TAG
    must(crypto.EVP_CipherUpdate(work, None, n, additional, len(additional)) == 1)
    must(crypto.EVP_CipherUpdate(work, out, n, text, len(text)) == 1)
    must(crypto.EVP_CipherFinal_ex(work, None, n) == 1, "a tag is wrong")
    if not tag: must(crypto.EVP_CIPHER_CTX_ctrl(work, 0x10, 16, end) == 1)  # EVP_CTRL_AEAD_GET_TAG
    crypto.EVP_CIPHER_CTX_free(work)
    return out.raw if tag else out.raw + end.raw

# ---- Handshake ----
def hkdf(ck, x, count):
    t, outputs = hmac.digest(ck, x, "sha256"), [b""]
    for i in range(1, count + 1):
        outputs.append(hmac.digest(t, outputs[-1] + bytes([i]), "sha256"))
    return outputs[1:]

class Handshake:
    """Each end writes one message and reads one. The second of them has the token ee."""
    def __init__(self, secret, prologue, private=None):
        self.private, self.other, self.is_second = private or os.urandom(32), None, False
        self.h = self.ck = b"Noise_NNpsk0_25519_AESGCM_SHA256"
        self.mix_hash(prologue)
        self.ck, t, self.k = hkdf(self.ck, secret, 3)
        self.mix_hash(t)

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def tokens(self, e):
        self.mix_hash(e)
        self.ck, self.k = hkdf(self.ck, e, 2)
        if self.is_second: self.ck, self.k = hkdf(self.ck, x25519(self.private, self.other), 2)
        self.is_second = True

    def write(self, payload):
        e = x25519(self.private)
        self.tokens(e)
        c = gcm(self.k, bytes(12), self.h, payload)
        self.mix_hash(c)
        return e + c

    def read(self, message):
        must(len(message) >= 48, "a message is too short")
        self.other, c = message[:32], message[32:]
        self.tokens(self.other)
        payload = gcm(self.k, bytes(12), self.h, c[:-16], c[-16:])
        self.mix_hash(c)
        return payload

    def keys(self):
        """From client to server, from server to client."""
        return [Key(key) for key in hkdf(self.ck, b"", 2)]

# ---- Frames ----
def frame(kind, body):
    return bytes([kind]) + len(body).to_bytes(3, "big") + body

def xor(data):
    return bytes(byte ^ 0x42 for byte in data)

class Key:
    """Seals the frames of one direction, or opens them, and counts them."""
    def __init__(self, key):
        self.key, self.n = key, -1

    def nonce(self):
        self.n += 1
        must(self.n < 2**32, "a key is used up")
        return bytes(4) + self.n.to_bytes(8, "big")

    def seal(self, kind, plain):
        header = frame(kind, bytes(len(plain) + 16))[:4]
        return header + gcm(self.key, self.nonce(), header, xor(plain))

    def open(self, sealed):
        must(len(sealed) >= 20, "a frame has no tag")
        return xor(gcm(self.key, self.nonce(), sealed[:4], sealed[4:-16], sealed[-16:]))

def record(packet):
    return (10 + len(packet)).to_bytes(4, "big") + bytes(10) + packet + bytes(-(14 + len(packet)) % 4)

def packets(plain):
    """Those of a data frame, but for those that only offload could use."""
    while plain:
        size = int.from_bytes(plain[:4], "big")
        must(10 < size <= len(plain) - 4, "a record does not fit its frame")
        if plain[4] in (0, 2) and plain[5] == 0: yield plain[14 : 4 + size]
        plain = plain[4 + size + -size % 4 :]

# ---- Sessions ----
class Session:
    """What both roles have."""
    buffer, sending, receiving = b"", None, None
    owed = silent = None  # since when we owe the other end a frame, and since when it owes us a byte

    def __init__(self, sock, secret):
        self.socket, self.secret, self.deadline = sock, secret, now() + 10
        self.fileno = sock.fileno  # select() asks for it
        sock.settimeout(10)

    def send(self, kind, plain):
        self.socket.sendall(self.sending.seal(kind, plain))
        self.owed = None
        if kind == DATA: self.silent = self.silent or now()

    def frames(self):
        """Those that are complete. The key may change between two of them."""
        data = self.socket.recv(65536)
        must(data, "it closed the connection")
        self.buffer, self.silent = self.buffer + data, None
        while len(self.buffer) >= 4:
            kind, size = self.buffer[0], int.from_bytes(self.buffer[1:4], "big")
            must(kind in (HANDSHAKE, DATA, CONTROL), "a frame has no such type")
            must(size <= 1024 if kind == HANDSHAKE else size <= 131104 and size % 4 == 0, "a length is wrong")
            if len(self.buffer) < 4 + size: return
            whole, self.buffer = self.buffer[: 4 + size], self.buffer[4 + size :]
            yield kind, whole

    def receive(self):
        """The packets that have come. Other frames are answered here."""
        for kind, whole in self.frames():
            must((kind == HANDSHAKE) == (self.receiving is None), "a frame is out of turn")
            if kind == HANDSHAKE:
                self.greet(whole[4:])
                continue
            plain = self.receiving.open(whole)
            self.proven()
            if kind == DATA:
                self.owed = self.owed or now()
                yield from filter(self.may_come, packets(plain))
            else:
                must(plain[:4] != GOODBYE, "it said goodbye")
                if plain[:4] in (REKEY, SWITCH): self.rekey(plain[:4], plain[4:])

    def tick(self):
        """Several times a second."""
        must(not self.deadline or now() < self.deadline, "it took too long")
        must(not self.silent or now() < self.silent + 13, "it is silent")
        if self.owed and now() > self.owed + 2: self.send(CONTROL, KEEPALIVE)

class Client(Session):
    def __init__(self, sock, secret, every):
        super().__init__(sock, secret)
        self.every, self.due, self.handshake = every, None, Handshake(secret, FIRST)
        sock.sendall(frame(HANDSHAKE, self.handshake.write(b"")))

    def greet(self, body):
        must(body, "the server refuses our secret")
        reply = json.loads(self.handshake.read(body))
        must("refused" not in reply, f"the server refuses us: {reply.get('refused')!a}")
        own_end = ipaddress.ip_interface(f"{reply['address']}/{reply['prefix']}")
        configure(own_end, int(reply["mtu"]))
        self.sending, self.receiving = self.handshake.keys()
        self.handshake, self.deadline, self.due = None, None, now() + self.every
        self.send(CONTROL, KEEPALIVE)
        say("connected:", own_end)

    def proven(self): pass
    def takes(self, packet): return self.sending
    def may_come(self, packet): return packet[0] >> 4 in (4, 6)

    def rekey(self, word, message):
        must(word == REKEY and self.handshake, "fresh keys out of turn")
        self.handshake.read(message)
        fresh, self.receiving = self.handshake.keys()
        self.send(CONTROL, SWITCH)
        self.sending, self.handshake, self.deadline, self.due = fresh, None, None, now() + self.every
        say("fresh keys")

    def tick(self):
        super().tick()
        if self.due and now() > self.due:
            self.due, self.deadline, self.handshake = None, now() + 60, Handshake(self.secret, AGAIN)
            self.send(CONTROL, REKEY + self.handshake.write(b""))

class Served(Session):
    """Our server's end of the session with one client."""
    address, fresh, earliest = None, None, 0
    seen = set()  # the public keys of message 1, of all sessions

    def __init__(self, sock, secret, all_sessions):
        super().__init__(sock, secret)
        self.all = all_sessions

    def greet(self, body):
        handshake = Handshake(self.secret, FIRST)
        try:
            wish = json.loads(handshake.read(body) or "{}").get("address")
        except End:
            self.socket.sendall(frame(HANDSHAKE, b""))
            raise
        must(body[:32] not in self.seen, "its message 1 is a copy")
        self.seen.add(body[:32])
        taken = [session.address for session in self.all]
        free = [ip for ip in map(str, list(SUBNET.hosts())[1:]) if ip not in taken]
        self.address = wish if wish in free else free[0] if free else None
        own_end = {"address": self.address, "prefix": SUBNET.prefixlen, "mtu": MTU}
        reply = json.dumps(own_end if free else {"refused": "all addresses are taken"})
        self.socket.sendall(frame(HANDSHAKE, handshake.write(reply.encode())))
        must(free, "all addresses are taken")
        self.receiving, self.sending = handshake.keys()

    def proven(self):
        if self.deadline: say("connected:", self.address)
        self.deadline = None

    def is_own(self, four): return socket.inet_aton(self.address) == four
    def takes(self, packet): return not self.deadline and self.is_own(packet[16:20])
    def may_come(self, packet): return packet[0] >> 4 == 4 and self.is_own(packet[12:16])

    def rekey(self, word, message):
        must((word == SWITCH) == (self.fresh is not None), "fresh keys out of turn")
        if word == SWITCH:
            self.receiving, self.fresh = self.fresh, None
            return say("fresh keys")
        must(now() >= self.earliest, "it asks too often")
        handshake, self.earliest = Handshake(self.secret, AGAIN), now() + 0.9
        handshake.read(message)
        self.send(CONTROL, REKEY + handshake.write(b""))
        self.fresh, self.sending = handshake.keys()

# ---- This machine ----
def open_tun():
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF; IFF_TUN | IFF_NO_PI
    return tun

def configure(own_end, mtu):
    subprocess.run(["ip", "addr", "add", str(own_end), "dev", "tun0"], check=True)
    subprocess.run(["ip", "link", "set", "tun0", "mtu", str(mtu), "up"], check=True)

def relay(tun, sessions, arrive=None):
    """Packets between TUN and sessions. `arrive`: of a server, the socket where clients come."""
    while sessions or arrive:
        ready = select.select([tun, *sessions, *([arrive] if arrive else [])], [], [], 0.2)[0]
        if arrive in ready: sessions.append(Served(arrive.accept()[0], SECRET, sessions))
        packet = os.read(tun, 65535) if tun in ready else None
        for session in sessions[:]:
            try:
                if packet and session.takes(packet): session.send(DATA, record(packet))
                for one in session.receive() if session in ready else []: os.write(tun, one)
                session.tick()
            except Exception as why:  # whatever a client does, it ends its own session only
                say("ended:", why)
                sessions.remove(session)
                session.socket.close()

# ---- The page's test vectors ----
def rows(page):
    """Each one's name and bytes. Payloads are shown as text."""
    block = re.search(r"\n## Test vectors\n.*?```\n(.*?)\n```", open(page).read(), re.S)[1]
    for row in re.sub(r"\n {26}", "", block).split("\n"):
        name, shown = re.split(r"  +", row.replace("(nothing)", ""))
        yield name, shown.encode() if shown[:1] == "{" else bytes.fromhex(shown)

def vectors(page):
    """Makes again what the page shows, row by row, and returns the names of rows that differ."""
    given, keys, plain, differ = {}, {}, {}, []
    for name, shown in rows(page):
        given[name] = ours = shown
        end, what = name.split(" ")[0], name.split(", ")[-1]  # "up" and "sealed" of "up 0, sealed"
        if name.endswith("private key"):
            given[end] = Handshake(given["secret"], AGAIN if keys else FIRST, shown)
        elif name == "payload 1":
            proof = hmac.digest(given["token of before"], x25519(given["client's"].private), "sha256")
            ours = f'{{"address":"10.8.0.2","proof":"{proof.hex()}"}}'.encode()
        elif name.startswith("frame") or what == "rekey":
            payload = given["payload " + name[-1]] if end == "frame" else b""
            writer, reader = given["client's"], given["server's"]
            if end == "down" or name.endswith("2"): writer, reader = reader, writer
            message = writer.write(payload)
            must(reader.read(message) == payload, name)
            ours = frame(HANDSHAKE, message) if end == "frame" else REKEY + message
        elif what == "key":
            way, index = ("up", 0) if end == "client" else ("down", 1)
            keys[way] = [one.keys()[index] for one in (given["client's"], given["server's"])]
            ours = keys[way][0].key
        elif what == "sealed":
            sealing, opening = keys[end]
            ours = sealing.seal(CONTROL if plain[end][:4] in WORDS.values() else DATA, plain[end])
            must(opening.open(ours) == plain[end], name)
        elif end in keys:
            ours = WORDS.get(what) or b"".join(map(record, packets(shown)))
        plain[end] = ours
        if ours != shown: differ.append(name)
    return differ

def main():
    global SECRET
    if sys.argv[1] == "vectors":
        sys.exit(f"These differ: {', '.join(different)}" if (different := vectors(sys.argv[2])) else 0)
    SECRET = bytes.fromhex(sys.argv[3 if sys.argv[1] == "client" else 2])
    tun = open_tun()
    if sys.argv[1] == "client":
        every = float((sys.argv + [120])[4])
        relay(tun, [Client(socket.create_connection((sys.argv[2], 5555), 10), SECRET, every)])
        sys.exit(1)
    configure(ipaddress.ip_interface("10.8.0.1/24"), MTU)
    listener = socket.create_server(("", 5555))
    say("listening")
    relay(tun, [], listener)

if __name__ == "__main__": main()
