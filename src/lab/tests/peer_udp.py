"""
Over UDP, as the section of that name in draft/wire.md says it: the rest of the protocol is peer.py's.

  peer_udp.py vectors draft/wire.md          do we make the bytes that the page shows?
  peer_udp.py client SERVER SECRET [EVERY]   EVERY: seconds until we ask for fresh keys
  peer_udp.py server SECRET                  for any number of clients

Left out, beside what peer.py leaves out: cookies of our own, probes of our own, another
key pair for an index that is taken. We take 1,400 bytes for granted.
"""
import ipaddress, json, os, re, select, socket, sys
from peer import AGAIN, CONTROL, DATA, End, FIRST, GOODBYE, Handshake, KEEPALIVE, MTU, REKEY, SUBNET
from peer import configure, gcm, must, now, open_tun, packets, record, say, xor

HELLO, ANSWER, COOKIE, NO_SESSION = 1, 4, 5, 6
PROBE, PROBED = bytes([0, 0, 0, 5]), bytes([0, 0, 0, 6])
WINDOW, ZEROS = 2048, bytes(1400)

def first(kind, rest, message, size=0):
    """A datagram from before there are keys, zeros behind it up to `size` bytes. `rest`: cookie, or index."""
    start = bytes([kind, 0]) + len(message).to_bytes(2, "big") + rest + message
    return start + bytes(max(0, size - len(start)))

def additional(header, plain):
    """What is authenticated beside the plaintext, as for a record of TLS 1.2."""
    return header[:8] + bytes(3) + len(plain).to_bytes(2, "big")

class Session:
    """One end of a session. Each direction has a key for each number that a frame may name."""
    def __init__(self, send, own, theirs, sealing, opening):
        self.send_bytes, self.own, self.theirs, self.to = send, own, theirs, None
        self.sealing, self.opening = (0, sealing.key), {0: opening.key}
        self.number, self.seen, self.newest = 0, set(), -1
        self.spoke = self.heard = now()

    def seal(self, kind, plain):
        number, (key_number, key) = self.number.to_bytes(8, "big"), self.sealing
        self.number += 1
        header = bytes([kind, key_number]) + (len(plain) + 16).to_bytes(2, "big") + self.theirs + number
        return header + gcm(key, bytes(4) + number, additional(header, plain), xor(plain))

    def send(self, kind, plain):
        self.send_bytes(self.seal(kind, plain), self.to)
        self.spoke = now()

    def open(self, datagram, source=None):
        """A good frame's plaintext; None: it goes no further."""
        header, body = datagram[:16], datagram[16:]
        number, key = int.from_bytes(header[8:], "big"), self.opening.get(header[1])
        if key is None or int.from_bytes(header[2:4], "big") != len(body) or len(body) < 16: return None
        if number in self.seen or number <= self.newest - WINDOW: return None
        try:
            plain = xor(gcm(key, bytes(4) + header[8:], additional(header, body[16:]), body[:-16], body[-16:]))
        except End:
            return None
        self.seen.add(number)
        if number > self.newest: self.newest, self.to = number, source
        self.seen = {one for one in self.seen if one > self.newest - WINDOW}
        self.heard = now()
        self.under(header[1])
        return plain

    def receive(self, datagram, source):
        """The packets in it. What else it says is answered here."""
        plain = self.open(datagram, source)
        if plain is None: return
        self.proven()
        word, rest = plain[:4], plain[4:]
        if datagram[0] == DATA: yield from filter(self.may_come, packets(plain))
        elif word == GOODBYE: raise End("it said goodbye")
        elif word == PROBE: self.send(CONTROL, PROBED + rest[:4])
        elif word == REKEY: self.rekey(rest)

    def fresh(self, sealing, opening):
        """Keys of a rekey, of which the one to seal with may have to wait. Two can open at any time."""
        number = (max(self.opening, key=list(self.opening).index) + 1) % 256
        self.opening = {**dict(list(self.opening.items())[-1:]), number: opening.key}
        return number, sealing.key

    def tick(self):
        must(now() < self.heard + 13, "it is silent")
        if now() > self.spoke + 2: self.send(CONTROL, KEEPALIVE)

class Client(Session):
    def __init__(self, sock, server, secret, every):
        self.secret, self.every, self.again, self.asked = secret, every, None, 0
        handshake, cookie, reply = Handshake(secret, FIRST), bytes(16), None
        message1, deadline, due = handshake.write(b""), now() + 10, 0
        own = message1[:4]
        while reply is None:
            must(now() < deadline, "nobody answers")
            if now() > due:
                sock.sendto(first(HELLO, cookie, message1, len(ZEROS)), server)
                due = now() + 1
            if not select.select([sock], [], [], 0.1)[0]: continue
            answer = sock.recv(65536)
            size = int.from_bytes(answer[2:4], "big")
            if answer[4:8] != own: continue
            if answer[0] == COOKIE: cookie, due = answer[8:24], 0
            if answer[0] == ANSWER: reply = answer[8 : 8 + size]
        must(reply, "the server refuses our secret")
        config = json.loads(handshake.read(reply))
        must("refused" not in config, "the server refuses us")
        super().__init__(sock.sendto, own, reply[:4], *handshake.keys())
        self.to, self.due = server, now() + every
        own_end = ipaddress.ip_interface(f"{config['address']}/{config['prefix']}")
        configure(own_end, min(MTU, int(config["mtu"])))
        self.send(CONTROL, KEEPALIVE)
        say("connected:", own_end)

    def under(self, number): pass
    def proven(self): pass
    def takes(self, packet): return True
    def may_come(self, packet): return packet[0] >> 4 in (4, 6)

    def rekey(self, message):
        if not self.again: return
        self.again.read(message)
        self.sealing, self.again, self.due = self.fresh(*self.again.keys()), None, now() + self.every
        self.send(CONTROL, KEEPALIVE)
        say("fresh keys")

    def tick(self):
        super().tick()
        if now() < self.due or now() < self.asked + 1: return
        if not self.again:
            self.again = Handshake(self.secret, AGAIN)
            self.message1 = self.again.write(b"")
        self.asked = now()
        self.send(CONTROL, REKEY + self.message1)

class Served(Session):
    def __init__(self, *args, address, secret):
        super().__init__(*args)
        self.address, self.secret, self.waiting, self.answered = address, secret, None, (None, None)
        self.connected = False

    def proven(self):
        if not self.connected: say("connected:", self.address)
        self.connected = True

    def is_own(self, four): return socket.inet_aton(self.address) == four
    def takes(self, packet): return self.connected and self.is_own(packet[16:20])
    def may_come(self, packet): return packet[0] >> 4 == 4 and self.is_own(packet[12:16])

    def under(self, number):
        """The client has sealed with its fresh key: now it has ours, too."""
        if self.waiting and number == self.waiting[0]:
            self.sealing, self.waiting = self.waiting, None
            say("fresh keys")

    def rekey(self, message):
        if message != self.answered[0]:
            if self.waiting: return
            handshake = Handshake(self.secret, AGAIN)
            handshake.read(message)
            self.answered = message, handshake.write(b"")
            self.send(CONTROL, REKEY + self.answered[1])
            opening, sealing = handshake.keys()
            self.waiting = self.fresh(sealing, opening)
        else: self.send(CONTROL, REKEY + self.answered[1])

def greet(sock, secret, sessions, datagram, source):
    """Message 1 of a client: the same one gets the same answer."""
    size, message1 = len(datagram), datagram[20:][: int.from_bytes(datagram[2:4], "big")]
    if size < 508: return
    for session in sessions.values():
        if session.message1 == message1 and not session.connected:
            return sock.sendto(first(ANSWER, message1[:4], session.message2, size), source)
    handshake = Handshake(secret, FIRST)
    try:
        handshake.read(message1)
    except End:
        return sock.sendto(first(ANSWER, message1[:4], b"", size), source)
    taken = [session.address for session in sessions.values()]
    address = next(ip for ip in map(str, list(SUBNET.hosts())[1:]) if ip not in taken)
    reply = json.dumps({"address": address, "prefix": SUBNET.prefixlen, "mtu": MTU}).encode()
    message2 = handshake.write(reply)
    own = message2[:4]
    opening, sealing = handshake.keys()
    session = Served(sock.sendto, own, message1[:4], sealing, opening, address=address, secret=secret)
    session.message1, session.message2, session.to, sessions[own] = message1, message2, source, session
    sock.sendto(first(ANSWER, message1[:4], message2, size), source)

def relay(tun, sock, sessions, secret=None):
    """Packets between TUN and sessions. `secret`: of a server."""
    while sessions or secret:
        ready = select.select([tun, sock], [], [], 0.2)[0]
        packet = os.read(tun, 65535) if tun in ready else None
        datagram, source = sock.recvfrom(65536) if sock in ready else (bytes(1), None)
        if secret and datagram[0] == HELLO: greet(sock, secret, sessions, datagram, source)
        for own, session in list(sessions.items()):
            try:
                if packet and session.takes(packet): session.send(DATA, record(packet))
                mine = datagram[0] in (DATA, CONTROL) and datagram[4:8] == own
                for one in session.receive(datagram, source) if mine else []: os.write(tun, one)
                session.tick()
            except End as why:
                say("ended:", why)
                del sessions[own]

def vectors(page):
    """Makes again what the page shows over UDP; the names of rows that differ."""
    block = re.findall(r"```\n(message 1 .*?)\n```", open(page).read(), re.S)[0]
    rows = [re.split(r"  +", row) for row in re.sub(r"\n {26}", "", block).split("\n")]
    shown = {name: text.encode() if text[:1] == "{" else bytes.fromhex(text) for name, text in dict(rows).items()}
    secret = bytes.fromhex(re.search(r"\nsecret +(\w+)", open(page).read())[1])
    client, server = (Handshake(secret, FIRST, bytes([i]) * 32) for i in (1, 2))
    message1 = client.write(b"")
    server.read(message1)
    message2 = server.write(shown["payload 2"])
    client.read(message2)
    index, other, cookie = message1[:4], message2[:4], shown["cookie"][8:]
    made = {
        "message 1": first(HELLO, bytes(16), message1),
        "cookie": first(COOKIE, index, cookie),
        "message 1 again": first(HELLO, cookie, message1),
        "message 2": first(ANSWER, index, message2),
    }
    (up, down), (again, answer) = client.keys(), (Handshake(secret, AGAIN, bytes([i]) * 32) for i in (3, 4))
    rekey1 = again.write(b"")
    answer.read(rekey1)
    rekey2 = answer.write(b"")
    again.read(rekey2)
    ends = {"up": Session(None, index, other, up, down), "down": Session(None, other, index, down, up)}
    for end in ends.values(): end.under = lambda number: None
    for name in shown:
        if "key 1" in name:
            way, key = ("up", again.keys()[0]) if name.startswith("client") else ("down", again.keys()[1])
            made[name] = key.key
            ends[way].sealing = 1, key.key
            ends["down" if way == "up" else "up"].opening[1] = key.key
        elif name.endswith(", rekey"): made[name] = REKEY + (rekey1 if name[0] == "u" else rekey2)
        elif name.endswith("sealed"):
            way, plain = name.split(" ")[0], shown[last]
            made[name] = ends[way].seal(DATA if "packet" in last else CONTROL, plain)
            if ends["down" if way == "up" else "up"].open(made[name]) != plain: made[name] = b"it does not open"
        last = name
    made["no such session"] = bytes([NO_SESSION]) + made["up 5, sealed"][1:16]
    return [name for name, ours in made.items() if ours != shown[name]]

if sys.argv[1] == "vectors":
    sys.exit(f"These differ: {', '.join(different)}" if (different := vectors(sys.argv[2])) else 0)
sock, tun = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), open_tun()
if sys.argv[1] == "client":
    session = Client(sock, (sys.argv[2], 5555), bytes.fromhex(sys.argv[3]), float((sys.argv + [120])[4]))
    relay(tun, sock, {session.own: session})
    sys.exit(1)
configure(ipaddress.ip_interface("10.8.0.1/24"), MTU)
sock.bind(("", 5555))
say("listening")
relay(tun, sock, {}, bytes.fromhex(sys.argv[2]))
