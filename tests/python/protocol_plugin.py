#!/usr/bin/python3
"""A plugin in plain Python that speaks all of the Palisade wire protocol, version 1.

It was written from docs/protocol.md alone, without the Rust SDK, to show that the page is enough. It needs the package `msgpack`.

One thread reads frames, so pings and cancellations are answered while calls run. Each call has a thread of its own, which is the only
one that writes under the call's id once the parameters are complete; that keeps the frames of a call in order without further locks.
"""

import collections
import os
import struct
import sys
import threading
import time

import msgpack

ID, VERSION, SOFTWARE = "protocol-plugin", "1.0.0", "protocol_plugin.py"
CONCURRENCY = 8

HELLO, WELCOME, READY, REFUSE, PING, PONG, DRAIN, DRAINED, EXTEND, LOG = range(0x01, 0x0B)
CALL, CANCEL, PROGRESS, OK, ERR, CANCELLED, CONTINUE = range(0x10, 0x17)
STREAM_OPEN, STREAM_DATA, STREAM_CREDIT, STREAM_END, STREAM_ABORT = range(0x20, 0x25)
HOST_CALL, HOST_OK, HOST_ERR = range(0x30, 0x33)
KINDS = {*range(HELLO, LOG + 1), *range(CALL, CONTINUE + 1), *range(STREAM_OPEN, STREAM_ABORT + 1), *range(HOST_CALL, HOST_ERR + 1)}
MORE, MUST_UNDERSTAND = 0x01, 0x02

HEADER = struct.Struct("<IBBHQ")
FRAME_BYTES_MAX = 1_048_576  # Before `Welcome` says otherwise.
PIECE_BYTES = 131_072
CREDIT_OUTSTANDING_MAX = 1 << 31
MESSAGE_CHARS_MAX = 2_000


class Failure(Exception):
    """An action did not succeed; this is what the caller is told."""

    def __init__(self, code, message, **more):
        super().__init__(message)
        self.error = {"code": code, "message": message[:MESSAGE_CHARS_MAX], **more}


class Stopped(Exception):
    """The call was cancelled, and the action lets go of it."""


class Violation(Exception):
    """The supervisor broke the protocol."""


# ---- Frames --------------------------------------------------------------------------------------------------------------------

source = os.fdopen(3, "rb")
writing = threading.Lock()
limits = {"frame_bytes_max": FRAME_BYTES_MAX}
features = frozenset()
next_id = 1


def leave(status, sentence):
    """Ends the process at once, whatever calls still run."""
    print(sentence, file=sys.stderr, flush=True)
    os._exit(status)


def read_exactly(count):
    data = source.read(count)
    if len(data) < count:
        leave(0, "the input has ended: exiting")
    return data


def read():
    """Gives one frame: its kind, flags, id, body, payload, and the `len` that counts against credit."""
    length, kind, flags, _reserved, id = HEADER.unpack(read_exactly(HEADER.size))
    if not 0 < length <= limits["frame_bytes_max"]:
        raise Violation(f"a frame of {length} bytes")
    content = read_exactly(length)
    unpacker = msgpack.Unpacker(max_buffer_size=length)
    unpacker.feed(content)
    body = unpacker.unpack()
    if not isinstance(body, dict):
        raise Violation("a body that is not a map")
    return kind, flags, id, body, content[unpacker.tell() :], length


def put(kind, id, body, payload=b"", more=False):
    """Writes one frame. The caller holds `writing`."""
    content = msgpack.packb(body) + payload
    frame = memoryview(HEADER.pack(len(content), kind, MORE if more else 0, 0, id) + content)
    while frame:
        try:
            frame = frame[os.write(4, frame) :]
        except BrokenPipeError:
            leave(0, "the output is closed: exiting")


def write(kind, id, body, payload=b"", more=False):
    with writing:
        put(kind, id, body, payload, more)


def begin(kind, body, asked):
    """Begins an exchange of our own. Ids have to increase on the wire, so taking one and writing the frame are one step."""
    global next_id
    with writing:
        asked.id, next_id = next_id, next_id + 2
        exchanges[asked.id] = asked
        put(kind, asked.id, body)


def piece_bytes():
    """How much payload goes into one frame: with its body of one byte it fits the frame limit and half of the credit."""
    return max(1, min(PIECE_BYTES, limits["frame_bytes_max"] - 1, limits["credit_bytes"] // 2 - 1))


def pieces(payload):
    """Cuts a payload; gives each piece with whether more follow. An empty payload is one empty piece."""
    size = piece_bytes()
    for start in range(0, max(1, len(payload)), size):
        yield payload[start : start + size], start + size < len(payload)


# ---- What comes from the supervisor in one exchange ------------------------------------------------------------------------------


class Incoming:
    """The credit of the supervisor in one call or host call."""

    def __init__(self):
        self.lock = threading.Lock()
        self.allowed = limits["credit_bytes"]
        self.consumed = 0

    def arrived(self, length):
        with self.lock:
            if length > self.allowed:
                raise Violation(f"{length} bytes of data with a credit of {self.allowed}")
            self.allowed -= length

    def consume(self, id, length):
        """Grants as much as was consumed, once that is half of the initial credit."""
        self.consumed += length
        if self.consumed * 2 < limits["credit_bytes"]:
            return
        granted, self.consumed = self.consumed, 0
        with self.lock:
            self.allowed += granted
        write(STREAM_CREDIT, id, {"bytes": granted})


class Joined:
    """A payload that may come in pieces."""

    def __init__(self):
        self.pieces, self.size, self.complete = [], 0, False

    def add(self, payload, more):
        if self.complete:
            raise Violation("a continuation of what was complete")
        self.size += len(payload)
        if self.size > limits["payload_bytes_max"]:
            raise Violation("a payload above the limit")
        self.pieces.append(payload)
        self.complete = not more

    def take(self):
        payload, self.pieces = b"".join(self.pieces), []
        return payload


class Asked:
    """A host call or a ping of ours, until its answer has come."""

    def __init__(self):
        self.id = None
        self.incoming, self.payload, self.error = Incoming(), Joined(), None
        self.answered = threading.Event()

    def add(self, payload, more):
        self.payload.add(payload, more)
        if self.payload.complete:
            exchanges.pop(self.id, None)
            self.answered.set()


# ---- Calls -----------------------------------------------------------------------------------------------------------------------


class Call:
    """One call: what the reader of frames tells it, and what its action may do."""

    def __init__(self, id, body):
        self.id = id
        self.action = ACTIONS[body["action"]]
        self.began = time.monotonic()
        self.incoming, self.parameters = Incoming(), Joined()
        # What follows belongs to `changed`: the reader of frames writes it, and the call's thread waits for it.
        self.changed = threading.Condition()
        self.reason = None
        self.failure = None
        self.credit = limits["credit_bytes"]
        self.input, self.input_open, self.input_ended = collections.deque(), False, False
        self.input_unwanted = self.output_unwanted = False
        # This is the call's thread's own.
        self.output_open = False

    # What the reader of frames calls.

    def tell(self, **changes):
        with self.changed:
            for name, value in changes.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def parameters_arrived(self, payload, more):
        self.parameters.add(payload, more)
        if self.parameters.complete:
            threading.Thread(target=self.run, daemon=True).start()

    def continued(self, payload, more, length):
        self.incoming.arrived(length)
        # Joining is consuming: parameters larger than the credit could never arrive otherwise.
        self.incoming.consume(self.id, length)
        self.parameters_arrived(payload, more)

    def opened(self, kind):
        if self.input_open or not self.parameters.complete:
            raise Violation("a stream that may not be opened here")
        self.tell(input_open=True)
        if self.action.input != kind:
            wanted = f"{self.action.name} reads no stream of {kind}"
            self.tell(failure=Failure("streaming_not_supported", wanted), input_unwanted=True)

    def data(self, payload, more, length):
        if not self.input_open or self.input_ended:
            raise Violation("data outside of a stream")
        self.incoming.arrived(length)
        with self.changed:
            if not self.input_unwanted:
                self.input.append((payload, more, length))
                self.changed.notify_all()

    def granted(self, count):
        with self.changed:
            self.credit += count
            if self.credit > CREDIT_OUTSTANDING_MAX:
                raise Violation("credit above the limit")
            self.changed.notify_all()

    def aborted(self, by, error):
        if by == "receiver":
            self.tell(output_unwanted=True)
        else:
            message = "the input broke off: " + error.get("message", error["code"])
            self.tell(failure=Failure("execution_failed", message), input_ended=True)

    # What an action calls.

    def check(self):
        if self.reason is not None:
            raise Stopped(self.reason)
        if self.failure is not None:
            raise self.failure

    def wait_until(self, happened):
        """Waits, and leaves the action if the call is cancelled or has failed meanwhile. Holds `changed` only while it waits."""
        with self.changed:
            self.changed.wait_for(lambda: happened() or self.reason is not None or self.failure is not None)
        self.check()

    def until_cancelled(self):
        """Waits for the cancellation and says why it came. The call goes on: what was done by then may be answered all the same."""
        with self.changed:
            self.changed.wait_for(lambda: self.reason is not None or self.failure is not None)
            reason, self.reason = self.reason, None
        self.check()
        return reason

    def progress(self, percentage, message, **details):
        write(PROGRESS, self.id, {"percentage": percentage, "message": message, "details": details})

    def log(self, level, message, **fields):
        write(LOG, 0, {"level": level, "message": message, "fields": fields, "call": self.id})

    def piece(self):
        """The next piece of the input, with whether its item goes on; nothing at the end. What is taken here is granted anew."""
        with self.changed:
            self.changed.wait_for(lambda: self.input or self.input_ended or self.reason is not None or self.failure is not None)
            taken = self.input.popleft() if self.input else None
        self.check()
        if taken is None:
            return None
        payload, more, length = taken
        if not self.input_ended:
            self.incoming.consume(self.id, length)
        return payload, more

    def bytes_in(self):
        while (taken := self.piece()) is not None:
            yield taken[0]

    def items_in(self):
        item = Joined()
        while (taken := self.piece()) is not None:
            item.add(*taken)
            if item.complete:
                yield msgpack.unpackb(item.take())
                item = Joined()

    def refuse_input(self):
        """No more of the input is wanted; the call goes on."""
        self.tell(input_unwanted=True)
        with self.changed:
            self.input.clear()
        write(STREAM_ABORT, self.id, {"by": "receiver", "error": {"code": "cancelled", "message": "that is enough"}})

    def pay(self, length, can_stop):
        """Waits for credit and takes it. False if nobody wants the stream any more."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.credit >= length
                or (can_stop and (self.output_unwanted or self.reason is not None or self.failure is not None))
            )
            if can_stop:
                self.check()
                if self.output_unwanted:
                    return False
            self.credit -= length
            return True

    def send_data(self, payload, more=False):
        if not self.output_open:
            write(STREAM_OPEN, self.id, {"kind": self.action.output})
            self.output_open = True
        if not self.pay(1 + len(payload), can_stop=True):
            return False
        write(STREAM_DATA, self.id, {}, payload, more)
        return True

    def send_item(self, value):
        payload = msgpack.packb(value)
        if len(payload) > piece_bytes() and "continue" not in features:
            raise Failure("resource_exhausted", "the item is larger than a frame")
        return all(self.send_data(piece, more) for piece, more in pieces(payload))

    def send_bytes(self, data):
        return all(self.send_data(piece) for piece, _more in pieces(data))

    def abort_output(self, code, message):
        write(STREAM_ABORT, self.id, {"by": "sender", "error": {"code": code, "message": message}})

    def ask(self, op):
        """A host call: its result, or the failure that the supervisor answered."""
        asked = Asked()
        begin(HOST_CALL, {"op": op, "call": self.id}, asked)
        asked.answered.wait()
        if asked.error is not None:
            raise Failure(asked.error["code"], asked.error.get("message", ""))
        return msgpack.unpackb(asked.payload.take())

    # The call's thread.

    def run(self):
        try:
            self.finish_ok(self.result())
        except Stopped as stopped:
            self.finish(CANCELLED, {"message": f"stopped, because: {stopped}"})
        except Failure as failure:
            self.finish(ERR, failure.error)
        except Exception as error:  # Whatever it is, it ends the call and not the plugin.
            self.finish(ERR, {"code": "execution_failed", "message": repr(error)[:MESSAGE_CHARS_MAX]})

    def result(self):
        payload = self.parameters.take()
        try:
            params = msgpack.unpackb(payload) if payload else None
        except ValueError as error:
            raise Failure("invalid_params", f"the parameters cannot be decoded: {error}") from error
        if params is None:
            params = {}
        if not isinstance(params, dict):
            raise Failure("invalid_params", "the parameters have to be a map")
        result = msgpack.packb(self.action.function(self, params))
        self.check()
        most = limits["payload_bytes_max"] if "continue" in features else limits["frame_bytes_max"] - 1
        if len(result) > most:
            raise Failure("resource_exhausted", f"the result has {len(result)} bytes, and at most {most} may be sent")
        return result

    def finish_ok(self, result):
        if self.output_open and not self.output_unwanted:
            write(STREAM_END, self.id, {})
        if "continue" not in features:
            return self.finish(OK, {}, result)
        kind = OK
        for piece, more in pieces(result):
            # An `Ok` that was begun is completed, cancelled or not.
            if kind == CONTINUE:
                self.pay(1 + len(piece), can_stop=False)
            if more:
                write(kind, self.id, {}, piece, more)
            else:
                self.finish(kind, {}, piece)
            kind = CONTINUE

    def finish(self, kind, body, payload=b""):
        """Sends the last frame of the call. What still comes under its id is skipped from here on."""
        calls.pop(self.id)
        write(kind, self.id, body, payload)
        drain.call_finished()


class Drainage:
    """Answers `Drain` when no call is under way. Counts calls until their last frame is written, which `calls` does not."""

    def __init__(self):
        self.lock = threading.Lock()
        self.unfinished = 0
        self.begun = threading.Event()
        self.answered = False

    def call_began(self):
        with self.lock:
            self.unfinished += 1

    def call_finished(self):
        with self.lock:
            self.unfinished -= 1
        self.answer()

    def begin(self):
        self.begun.set()
        for call in list(calls.values()):
            call.tell()  # So that what waits for the drain looks again.
        self.answer()

    def answer(self):
        with self.lock:
            due = self.begun.is_set() and self.unfinished == 0 and not self.answered
            self.answered = self.answered or due
        if due:
            write(DRAINED, 0, {})


calls, exchanges, drain = {}, {}, Drainage()
pings = 0


# ---- Actions ---------------------------------------------------------------------------------------------------------------------


class Action:
    def __init__(self, function, name, description, input=None, output=None, **more):
        self.function, self.name, self.input, self.output = function, name, input, output
        self.declared = {"name": name, "description": description, **more}
        for direction, kind in (("input", input), ("output", output)):
            if kind is not None:
                self.declared[direction] = {"kind": kind}


ACTIONS = {}


def action(name, description, **more):
    def declare(function):
        ACTIONS[name] = Action(function, name, description, **more)
        return function

    return declare


def param(params, name, type):
    value = params.get(name)
    if not isinstance(value, type) or (type is int and isinstance(value, bool)):
        raise Failure("invalid_params", f"`{name}` is missing, or of another type than {type.__name__}")
    return value


COUNT = {"type": "object", "properties": {"count": {"type": "integer", "minimum": 1}}, "required": ["count"]}


def counted(params):
    """The parameter of the schema above, which nobody has to have checked before."""
    count = param(params, "count", int)
    if count < 1:
        raise Failure("invalid_params", "`count` has to be 1 or more")
    return count


@action("greet", "Greets by name.")
def greet(_call, params):
    return "Hello, " + param(params, "name", str) + "!"


@action("fail", "Fails as told: with the code, or with an exception.")
def fail(_call, params):
    if "code" in params:
        raise Failure(param(params, "code", str), "failed as told", hint="ask for something else", details={"asked": True})
    raise RuntimeError("nobody expected this")


@action("march", "Reports each number of its input as progress.", input="items")
def march(call, _params):
    steps = 0
    for percentage in call.items_in():
        steps += 1
        call.progress(percentage, f"step {steps}", step=steps)
    return {"steps": steps}


@action("squares", "Streams the numbers from 1 to `count` with their squares.", output="items", parameters=COUNT)
def squares(call, params):
    sent = 0
    for n in range(1, counted(params) + 1):
        if not call.send_item({"n": n, "square": n * n}):
            break
        sent += 1
    return {"sent": sent}


@action("pages", "Streams items of `bytes` letters each, `count` of them.", output="items", parameters=COUNT)
def pages(call, params):
    for n in range(counted(params)):
        call.send_item(letters(param(params, "bytes", int), n))
    return None


@action("break-off", "Streams one item, and gives up.", output="items")
def break_off(call, _params):
    call.send_item(1)
    call.abort_output("dependency_unavailable", "the source of the items is gone")
    raise Failure("dependency_unavailable", "the source of the items is gone")


@action("sum", "Adds the numbers of its input.", input="items")
def sum_items(call, _params):
    count = total = 0
    for item in call.items_in():
        count, total = count + 1, total + item
    return {"count": count, "sum": total}


@action("first", "Reads one item of its input, wants no more, and answers when it is cancelled.", input="items")
def first(call, _params):
    for item in call.items_in():
        call.refuse_input()
        return {"first": item, "reason": call.until_cancelled()}
    raise Failure("invalid_params", "the input is empty")


INVERTED = bytes(255 - value for value in range(256))


@action("invert", "Gives its input back with all bits turned, while it comes.", input="bytes", output="bytes")
def invert(call, _params):
    count = 0
    for data in call.bytes_in():
        call.send_bytes(data.translate(INVERTED))
        count += len(data)
    return {"bytes": count}


@action("wait", "Says that it waits, and waits until it is cancelled.", endless=True)
def wait(call, params):
    call.progress(0, "waiting")
    reason = call.until_cancelled()
    if params.get("answer") is True:
        return {"reason": reason}
    raise Stopped(reason)


@action("until-pinged", "Computes until `count` pings were answered meanwhile.", parameters=COUNT)
def until_pinged(call, params):
    count = counted(params)
    goal = pings + count
    call.progress(0, "computing")
    while pings < goal:
        call.check()
        sum(range(1_000))
    return {"pings": count}


@action("until-drained", "Says that the plugin was told to drain, and finishes with the next item of its input.", input="items")
def until_drained(call, _params):
    call.progress(0, "waiting for the drain")
    call.wait_until(drain.begun.is_set)
    call.progress(50, "draining")
    return {"while draining": next(call.items_in())}


def letters(count, first=0):
    alphabet = bytes(97 + (first + n) % 26 for n in range(26))
    return (alphabet * (count // 26 + 1))[:count].decode()


@action("letters", "Gives `count` letters at once.", parameters=COUNT)
def give_letters(_call, params):
    return letters(counted(params))


@action("measure", "Says how long a text is, and what its bytes add up to.")
def measure(_call, params):
    data = param(params, "text", str).encode()
    return {"bytes": len(data), "sum": sum(data)}


@action("mirror", "Gives its parameters back.")
def mirror(_call, params):
    return params


@action("log", "Logs a line in each of the three ways.")
def log(call, params):
    message = param(params, "message", str)
    call.log("warn", message, way="log")
    print(message + " on stdout", flush=True)
    print(message + " on stderr", file=sys.stderr, flush=True)


@action("ask", "Asks the supervisor for `op`.")
def ask(call, params):
    return call.ask(param(params, "op", str))


@action("ping", "Pings the supervisor.")
def ping(_call, _params):
    asked = Asked()
    begin(PING, {}, asked)
    asked.answered.wait()
    return "pong"


# ---- The connection --------------------------------------------------------------------------------------------------------------


def welcomed(body):
    global features
    limits.update(body["limits"])
    features = frozenset(body["features"])
    declared = [
        action.declared for action in ACTIONS.values() if "streams" in features or (action.input is None and action.output is None)
    ]
    write(READY, 0, {"id": ID, "version": VERSION, "actions": declared, "concurrency": CONCURRENCY})


def called(id, body, payload, more):
    """Begins a call, or says why not."""
    if body["action"] not in ACTIONS:
        write(ERR, id, {"code": "action_not_found", "message": f"there is no action {body['action'][:200]}"})
    elif len(calls) >= CONCURRENCY:
        write(ERR, id, {"code": "overloaded", "message": f"{CONCURRENCY} calls are under way"})
    else:
        call = calls[id] = Call(id, body)
        drain.call_began()
        call.parameters_arrived(payload, more)


def cancelled(call, reason):
    """A call whose parameters are not complete has no thread yet that could end it."""
    if call.parameters.complete:
        call.tell(reason=reason)
    else:
        call.finish(CANCELLED, {"message": "it had not begun"})


def pinged(id):
    global pings
    oldest = min((call.began for call in list(calls.values())), default=None)
    pong = {"calls": len(calls)}
    if oldest is not None:
        pong["oldest_call_ms"] = int((time.monotonic() - oldest) * 1_000)
    write(PONG, id, pong)
    pings += 1


def answered(id, kind, body, payload, more):
    asked = exchanges.get(id)
    if asked is None:
        raise Violation(f"an answer to {id}, which is not under way")
    if kind == HOST_ERR:
        asked.error = body
    asked.add(payload, more)


def continued(id, payload, more, length):
    asked = exchanges.get(id)
    if asked is not None:
        asked.incoming.arrived(length)
        asked.incoming.consume(id, length)
        asked.add(payload, more)
    elif id in calls:
        calls[id].continued(payload, more, length)


def serve():
    write(HELLO, 0, {"protocol": {"min": 1, "max": 1}, "features": ["streams", "continue"], "software": SOFTWARE})
    while True:
        kind, flags, id, body, payload, length = read()
        more, call = bool(flags & MORE), calls.get(id)
        if kind == WELCOME:
            welcomed(body)
        elif kind == REFUSE:
            leave(1, "the supervisor refused: " + body["error"].get("message", body["error"]["code"]))
        elif kind == PING:
            pinged(id)
        elif kind == DRAIN:
            drain.begin()
        elif kind == CALL:
            called(id, body, payload, more)
        elif kind in (PONG, HOST_OK, HOST_ERR):
            answered(id, kind, body, payload, more)
        elif kind == CONTINUE:
            continued(id, payload, more, length)
        elif kind == CANCEL and call is not None:
            cancelled(call, body.get("reason", "caller"))
        elif kind == STREAM_OPEN and call is not None:
            call.opened(body["kind"])
        elif kind == STREAM_DATA and call is not None:
            call.data(payload, more, length)
        elif kind == STREAM_CREDIT and call is not None:
            call.granted(body["bytes"])
        elif kind == STREAM_END and call is not None:
            call.tell(input_ended=True)
        elif kind == STREAM_ABORT and call is not None:
            call.aborted(body.get("by", "sender"), body["error"])
        elif flags & MUST_UNDERSTAND and kind not in KINDS:
            raise Violation(f"a frame of the unknown kind {kind:#04x} that has to be understood")


try:
    serve()
except (Violation, KeyError, TypeError, ValueError, msgpack.exceptions.UnpackException) as error:
    sentence = repr(error)[:MESSAGE_CHARS_MAX]
    write(REFUSE, 0, {"error": {"code": "protocol_violation", "message": sentence}})
    leave(1, "the supervisor broke the protocol: " + sentence)
