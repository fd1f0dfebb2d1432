//! Properties of the wire format over random input: what is encoded decodes to itself; where bytes are cut means nothing; no
//! bytes make a decoder panic or read beyond its limits; and the walk over a value agrees with a decoder that builds it.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking, as the test itself does")]

mod support;

use palisade_protocol::{
    self as protocol, BODY_KEYS_MAX, Class, Decoder, ErrorBody, ErrorCode, Fault, Flags, FrameError, HEADER_BYTES,
    Kind, PAYLOAD_DEPTH_MAX, ValueError, ValueLimits, check_body, check_value, encode, split,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use support::{decode, decode_as, golden, only_frame, raw_frame};

/// One message of any kind, encoded, beside what it should decode to.
#[derive(Debug, Clone)]
struct Sample {
    kind: Kind,
    bytes: Vec<u8>,
    body: Value,
    payload: Vec<u8>,
}

fn sample<M: Serialize>(kind: Kind, (flags, id, payload): (u8, u64, Vec<u8>), message: &M) -> Sample {
    let payload = if kind.has_payload() { payload } else { Vec::new() };
    let mut bytes = Vec::new();
    encode(&mut bytes, kind, Flags(flags & !Flags::MUST_UNDERSTAND.0), id, message, &payload);
    Sample { kind, bytes, body: serde_json::to_value(message).unwrap(), payload }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,12}", "[a-z_]{1,40}", any::<String>()]
}

/// What free-form fields hold: anything that JSON can say.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e300_f64..1e300).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((text(), inner), 0..6).prop_map(|pairs| Value::from(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn present() -> impl Strategy<Value = Option<Value>> {
    // Nil in an optional field reads as absence, so it is not sent there.
    of(value().prop_filter("nil", |value| !value.is_null()))
}

fn error_body() -> impl Strategy<Value = ErrorBody> {
    let class = select(vec![
        Class::NotFound,
        Class::Invalid,
        Class::Denied,
        Class::Failed,
        Class::Timeout,
        Class::Cancelled,
        Class::Unavailable,
        Class::Broken,
        Class::Internal,
    ]);
    let fault = select(vec![Fault::Caller, Fault::Plugin, Fault::Host]);
    let rest = (any::<bool>(), of(any::<u64>()), text(), of(text()), present());
    (select(ErrorCode::ALL), class, fault, rest).prop_map(|(code, class, fault, rest)| {
        let (retryable, retry_after_ms, message, hint, details) = rest;
        ErrorBody { code, class, fault, retryable, retry_after_ms, message, hint, details }
    })
}

fn stream_kind() -> impl Strategy<Value = protocol::StreamKind> {
    select(vec![protocol::StreamKind::Items, protocol::StreamKind::Bytes])
}

fn stream_info() -> impl Strategy<Value = protocol::StreamInfo> {
    (stream_kind(), present()).prop_map(|(kind, item)| protocol::StreamInfo { kind, item })
}

fn action() -> impl Strategy<Value = protocol::ActionInfo> {
    let head = (text(), text(), present(), present());
    let tail = (of(stream_info()), of(stream_info()), any::<bool>(), any::<bool>(), of(any::<u64>()));
    (head, tail).prop_map(
        |((name, description, parameters, result), (input, output, idempotent, endless, timeout_ms))| {
            protocol::ActionInfo {
                name,
                description,
                parameters,
                result,
                input,
                output,
                idempotent,
                endless,
                timeout_ms,
            }
        },
    )
}

fn guarantee() -> impl Strategy<Value = protocol::Guarantee> {
    use protocol::GuaranteeState::{Absent, Degraded, Enforced, Monitored};
    use protocol::ProofSource::{Daemon, Kernel, Launcher, Trial, Unknown};
    let proof = (select(vec![Kernel, Launcher, Trial, Daemon, Unknown]), text())
        .prop_map(|(source, found)| protocol::Proof { source, found });
    let head = (text(), select(vec![Enforced, Degraded, Monitored, Absent]), text());
    (head, (text(), text(), any::<bool>(), vec(proof, 0..3))).prop_map(|(head, tail)| {
        let ((control, state, evidence), (mechanism, reason, required, proofs)) = (head, tail);
        protocol::Guarantee { control, state, evidence, mechanism, reason, required, proofs }
    })
}

fn plugin_welcome() -> impl Strategy<Value = protocol::PluginWelcome> {
    let head = (text(), text(), any::<u64>(), any::<u64>());
    let tail = (value(), vec(text(), 0..4), vec(guarantee(), 0..4), of(any::<u32>()));
    (head, tail).prop_map(|(head, tail)| {
        let (id, version, generation, ready_within_ms) = head;
        let (configuration, permissions, guarantees, state_schema) = tail;
        protocol::PluginWelcome {
            id,
            version,
            generation,
            ready_within_ms,
            configuration,
            permissions,
            guarantees,
            state_schema,
        }
    })
}

fn limits() -> impl Strategy<Value = protocol::Limits> {
    any::<(u32, u64, u32, u32)>().prop_map(|(frame_bytes_max, payload_bytes_max, credit_bytes, calls_max)| {
        protocol::Limits { frame_bytes_max, payload_bytes_max, credit_bytes, calls_max }
    })
}

/// A message of any kind with arbitrary fields.
fn any_message() -> BoxedStrategy<Sample> {
    let head = || (any::<u8>(), any::<u64>(), vec(any::<u8>(), 0..40));
    let range = any::<(u16, u16)>().prop_map(|(min, max)| protocol::VersionRange { min, max });
    let level = {
        use protocol::Level::{Debug, Error, Info, Trace, Warn};
        select(vec![Trace, Debug, Info, Warn, Error])
    };
    let reason = {
        use protocol::CancelReason::{Caller, Deadline, Draining, Other};
        select(vec![Caller, Deadline, Draining, Other])
    };
    let answer = select(vec![
        protocol::ConfigureAnswer::Accepted,
        protocol::ConfigureAnswer::Declined,
        protocol::ConfigureAnswer::Refused,
    ]);
    let side = select(vec![protocol::StreamSide::Sender, protocol::StreamSide::Receiver]);
    let opening = prop_oneof![
        (head(), range, vec(text(), 0..5), text()).prop_map(|(head, protocol, features, software)| {
            sample(Kind::Hello, head, &protocol::Hello { protocol, features, software })
        }),
        (head(), any::<u16>(), vec(text(), 0..5), text(), limits(), of(plugin_welcome())).prop_map(
            |(head, protocol, features, software, limits, plugin)| {
                sample(Kind::Welcome, head, &protocol::Welcome { protocol, features, software, limits, plugin })
            }
        ),
        (head(), text(), text(), vec(action(), 0..4), any::<u32>(), of(any::<u32>())).prop_map(
            |(head, id, version, actions, concurrency, state_schema)| {
                sample(Kind::Ready, head, &protocol::Ready { id, version, actions, concurrency, state_schema })
            }
        ),
        (head(), error_body()).prop_map(|(head, error)| sample(Kind::Refuse, head, &protocol::Refuse { error })),
        (head(), any::<(bool, bool)>()).prop_map(|(head, (health, self_test))| sample(
            Kind::Ping,
            head,
            &protocol::Ping { health, self_test }
        )),
        (head(), any::<u32>(), any::<u64>(), of(text())).prop_map(|(head, calls, oldest_call_ms, unhealthy)| {
            sample(Kind::Pong, head, &protocol::Pong { calls, oldest_call_ms, unhealthy })
        }),
        (head(), any::<u64>(), text()).prop_map(|(head, within_ms, reason)| {
            sample(Kind::Drain, head, &protocol::Drain { within_ms, reason })
        }),
        head().prop_map(|head| sample(Kind::Drained, head, &protocol::Drained {})),
        (head(), any::<u64>(), text()).prop_map(|(head, by_ms, reason)| sample(
            Kind::Extend,
            head,
            &protocol::Extend { by_ms, reason }
        )),
        (head(), level, text(), present(), of(any::<u64>())).prop_map(|(head, level, message, fields, call)| {
            sample(Kind::Log, head, &protocol::Log { level, message, fields, call })
        }),
        (head(), value()).prop_map(|(head, configuration)| {
            sample(Kind::Configure, head, &protocol::Configure { configuration })
        }),
        (head(), answer, of(text())).prop_map(|(head, answer, reason)| {
            sample(Kind::Configured, head, &protocol::Configured { answer, reason })
        }),
    ];
    let calls = prop_oneof![
        (head(), text(), of(text()), of(text()), of(any::<u64>()), of(text())).prop_map(
            |(head, action, plugin, version, deadline_ms, caller)| {
                let (plugin, version, caller) = (plugin.as_deref(), version.as_deref(), caller.as_deref());
                let call = protocol::Call { action: &action, plugin, version, deadline_ms, caller };
                sample(Kind::Call, head, &call)
            }
        ),
        (head(), reason).prop_map(|(head, reason)| sample(Kind::Cancel, head, &protocol::Cancel { reason })),
        (head(), of(-1e9_f64..1e9), of(text()), present()).prop_map(|(head, percentage, message, details)| {
            sample(Kind::Progress, head, &protocol::Progress { percentage, message, details })
        }),
        head().prop_map(|head| sample(Kind::Ok, head, &protocol::Ok {})),
        (head(), error_body(), select(vec![Kind::Err, Kind::HostErr]))
            .prop_map(|(head, error, kind)| sample(kind, head, &error)),
        (head(), of(text())).prop_map(|(head, message)| sample(
            Kind::Cancelled,
            head,
            &protocol::Cancelled { message }
        )),
        (head(), select(vec![Kind::Continue, Kind::StreamData, Kind::StreamEnd, Kind::HostOk]))
            .prop_map(|(head, kind)| sample(kind, head, &protocol::Empty {})),
        (head(), stream_kind()).prop_map(|(head, kind)| sample(Kind::StreamOpen, head, &protocol::StreamOpen { kind })),
        (head(), any::<u32>()).prop_map(|(head, bytes)| sample(
            Kind::StreamCredit,
            head,
            &protocol::StreamCredit { bytes }
        )),
        (head(), side, error_body()).prop_map(|(head, by, error)| sample(
            Kind::StreamAbort,
            head,
            &protocol::StreamAbort { by, error }
        )),
        (head(), text(), of(any::<u64>()))
            .prop_map(|(head, op, call)| { sample(Kind::HostCall, head, &protocol::HostCall { op: &op, call }) }),
    ];
    prop_oneof![opening, calls].boxed()
}

/// A stream of frames as it may arrive: valid ones, ones of unknown kinds, golden ones, and sometimes garbage.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let golden = golden().into_iter().map(|golden| golden.bytes).collect::<Vec<_>>();
    let piece = prop_oneof![
        4 => any_message().prop_map(|sample| sample.bytes),
        2 => select(golden),
        2 => (any::<(u8, u8, u64)>(), vec(any::<u8>(), 1..64))
            .prop_map(|((kind, flags, id), content)| raw_frame(kind, flags, id, &content)),
        1 => vec(any::<u8>(), 0..40),
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// What became of a stream: its frames, the error that ended it, and whether it was cut off.
#[derive(Debug, PartialEq)]
struct Seen {
    frames: Vec<Vec<u8>>,
    error: Option<FrameError>,
    mid_frame: bool,
}

fn take(decoder: &mut Decoder, frames: &mut Vec<Vec<u8>>) -> Option<FrameError> {
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => frames.push([&frame.header.bytes()[..], frame.content].concat()),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

fn decode_in_pieces(bytes: &[u8], cuts: &[prop::sample::Index], limit: u32) -> Seen {
    let mut cuts = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect::<Vec<_>>();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let (mut decoder, mut frames, mut error, mut start) = (Decoder::new(limit), Vec::new(), None, 0);
    let mut longest = 0;
    for cut in cuts {
        longest = longest.max(cut - start);
        decoder.push(&bytes[start..cut]);
        start = cut;
        error = take(&mut decoder, &mut frames);
        assert!(decoder.held() <= HEADER_BYTES + limit as usize + longest, "it holds {}", decoder.held());
    }
    Seen { frames, error, mid_frame: decoder.is_mid_frame() }
}

/// The same without a decoder: `split` over all of it.
fn split_whole(bytes: &[u8], limit: u32) -> Seen {
    let (mut rest, mut frames) = (bytes, Vec::new());
    loop {
        match split(rest, limit) {
            Ok(Some((frame, after))) => {
                frames.push([&frame.header.bytes()[..], frame.content].concat());
                rest = after;
            }
            Ok(None) => return Seen { frames, error: None, mid_frame: !rest.is_empty() },
            Err(error) => return Seen { frames, error: Some(error), mid_frame: true },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_decodes_to_itself(sample in any_message()) {
        let frame = only_frame(&sample.bytes);
        let decoded = decode(&frame).unwrap().unwrap();
        prop_assert_eq!(decoded.kind, sample.kind);
        prop_assert_eq!(decoded.body, sample.body);
        prop_assert_eq!(decoded.payload, sample.payload);
        prop_assert_eq!(decoded.again, sample.bytes);
    }

    #[test]
    fn any_split_of_any_stream_is_the_same_frames(
        bytes in stream(),
        cuts in vec(any::<prop::sample::Index>(), 0..40),
        limit in prop_oneof![Just(protocol::FRAME_BYTES_MAX), 1_u32..200],
    ) {
        let whole = decode_in_pieces(&bytes, &[], limit);
        prop_assert_eq!(&decode_in_pieces(&bytes, &cuts, limit), &whole);
        prop_assert_eq!(&split_whole(&bytes, limit), &whole);
        let every = (0..bytes.len()).collect::<Vec<_>>();
        let (mut decoder, mut frames, mut error) = (Decoder::new(limit), Vec::new(), None);
        for at in every {
            decoder.push(&bytes[at..=at]);
            error = take(&mut decoder, &mut frames);
        }
        prop_assert_eq!(&Seen { frames, error, mid_frame: decoder.is_mid_frame() }, &whole);
    }

    #[test]
    fn no_content_makes_a_decoder_panic(content in vec(any::<u8>(), 1..200), kind in select(Kind::ALL)) {
        let bytes = raw_frame(kind as u8, 0, 2, &content);
        let _ = decode_as(&only_frame(&bytes), kind);
        let _ = check_body(&content);
        let _ = check_value(&content, ValueLimits::PAYLOAD);
    }

    /// Mutations of valid frames reach deeper than random bytes do.
    #[test]
    fn no_mutation_of_a_message_makes_a_decoder_panic(
        sample in any_message(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = sample.bytes;
        for (at, byte) in changes {
            // The header stays: it says where the frame ends.
            let at = at.index(bytes.len() - HEADER_BYTES) + HEADER_BYTES;
            bytes[at] = byte;
        }
        for kind in Kind::ALL {
            if let Ok(decoded) = decode_as(&only_frame(&bytes), *kind) {
                // What was taken can be said again, and then is what it was.
                let again = decode_as(&only_frame(&decoded.again), *kind).unwrap();
                prop_assert_eq!(again.body, decoded.body);
            }
        }
    }
}

/// A MessagePack value of any form that exists, valid or not, in any width.
#[derive(Debug, Clone)]
enum Wire {
    Plain(Vec<u8>),
    Text { width: u8, bytes: Vec<u8> },
    Binary { width: u8, bytes: Vec<u8> },
    List { width: u8, items: Vec<Wire> },
    Map { width: u8, pairs: Vec<(Wire, Wire)> },
    Extension { marker: u8, bytes: Vec<u8> },
}

/// A count or length in the narrowest form that holds it and is at least `width`: 0 is inside the marker.
fn head(out: &mut Vec<u8>, width: u8, count: usize, fix: Option<(u8, usize)>, wide: [Option<u8>; 3]) {
    if let (0, Some((marker, most))) = (width, fix)
        && count <= most
    {
        out.push(marker | u8::try_from(count).unwrap());
        return;
    }
    for (index, marker) in wide.iter().enumerate() {
        let (Some(marker), bytes) = (marker, 1_usize << index) else { continue };
        if index + 1 >= usize::from(width) && count < 1 << (8 * bytes) {
            out.push(*marker);
            out.extend_from_slice(&u32::try_from(count).unwrap().to_be_bytes()[4 - bytes..]);
            return;
        }
    }
    unreachable!("32 bits hold every count of a test");
}

impl Wire {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Plain(bytes) => out.extend_from_slice(bytes),
            Self::Text { width, bytes } => {
                head(out, *width, bytes.len(), Some((0xa0, 31)), [Some(0xd9), Some(0xda), Some(0xdb)]);
                out.extend_from_slice(bytes);
            }
            Self::Binary { width, bytes } => {
                head(out, *width, bytes.len(), None, [Some(0xc4), Some(0xc5), Some(0xc6)]);
                out.extend_from_slice(bytes);
            }
            Self::List { width, items } => {
                head(out, *width, items.len(), Some((0x90, 15)), [None, Some(0xdc), Some(0xdd)]);
                items.iter().for_each(|item| item.write(out));
            }
            Self::Map { width, pairs } => {
                head(out, *width, pairs.len(), Some((0x80, 15)), [None, Some(0xde), Some(0xdf)]);
                for (key, value) in pairs {
                    key.write(out);
                    value.write(out);
                }
            }
            Self::Extension { marker, bytes } => {
                out.push(*marker);
                if (0xc7..=0xc9).contains(marker) {
                    let width = 1 << (marker - 0xc7);
                    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
                    out.extend_from_slice(&length[4 - width..]);
                }
                out.push(5);
                out.extend_from_slice(bytes);
            }
        }
    }

    /// How deep it nests, how many values it is, and whether all of it is allowed.
    fn measure(&self) -> (usize, usize, bool) {
        let inner = |children: &mut dyn Iterator<Item = &Self>| {
            children.fold((1, 1, true), |(depth, count, allowed), child| {
                let (d, c, a) = child.measure();
                (depth.max(d + 1), count + c, allowed && a)
            })
        };
        match self {
            Self::Plain(_) | Self::Binary { .. } => (0, 1, true),
            Self::Text { bytes, .. } => (0, 1, std::str::from_utf8(bytes).is_ok()),
            Self::Extension { .. } => (0, 1, false),
            Self::List { items, .. } => inner(&mut items.iter()),
            Self::Map { pairs, .. } => inner(&mut pairs.iter().flat_map(|(key, value)| [key, value])),
        }
    }
}

fn wire() -> impl Strategy<Value = Wire> {
    let plain = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte & 0x7f]),
        any::<u8>().prop_map(|byte| vec![byte | 0xe0]),
        select(vec![vec![0xc0], vec![0xc2], vec![0xc3]]),
        any::<u8>().prop_map(|n| vec![0xcc, n]),
        any::<[u8; 2]>().prop_map(|n| [&[0xcd][..], &n].concat()),
        any::<[u8; 4]>().prop_map(|n| [&[0xca][..], &n].concat()),
        any::<[u8; 4]>().prop_map(|n| [&[0xce][..], &n].concat()),
        any::<[u8; 8]>().prop_map(|n| [&[0xcb][..], &n].concat()),
        any::<[u8; 8]>().prop_map(|n| [&[0xcf][..], &n].concat()),
        any::<u8>().prop_map(|n| vec![0xd0, n]),
        any::<[u8; 2]>().prop_map(|n| [&[0xd1][..], &n].concat()),
        any::<[u8; 4]>().prop_map(|n| [&[0xd2][..], &n].concat()),
        any::<[u8; 8]>().prop_map(|n| [&[0xd3][..], &n].concat()),
    ]
    .prop_map(Wire::Plain);
    let text = prop_oneof![text().prop_map(String::into_bytes), vec(any::<u8>(), 0..8)];
    let fixed = select(vec![(0xd4_u8, 1), (0xd5, 2), (0xd6, 4), (0xd7, 8), (0xd8, 16)])
        .prop_map(|(marker, bytes)| Wire::Extension { marker, bytes: vec![0; bytes] });
    let variable = (0xc7_u8..=0xc9, vec(any::<u8>(), 0..9)).prop_map(|(m, bytes)| Wire::Extension { marker: m, bytes });
    let leaf = prop_oneof![
        12 => plain,
        6 => (0_u8..4, text).prop_map(|(width, bytes)| Wire::Text { width, bytes }),
        3 => (0_u8..4, vec(any::<u8>(), 0..300)).prop_map(|(width, bytes)| Wire::Binary { width, bytes }),
        1 => prop_oneof![fixed, variable],
    ];
    leaf.prop_recursive(6, 60, 20, |inner| {
        prop_oneof![
            (0_u8..4, vec(inner.clone(), 0..20)).prop_map(|(width, items)| Wire::List { width, items }),
            (0_u8..4, vec((inner.clone(), inner), 0..20)).prop_map(|(width, pairs)| Wire::Map { width, pairs }),
        ]
    })
}

/// A key of a body and the width of its length; short ones are often equal.
fn key() -> impl Strategy<Value = (u8, String)> {
    prop_oneof![3 => "[a-c]{1,2}".prop_map(|key| (0_u8, key)), 1 => (0_u8..4, text())]
}

/// Where the first value of `bytes` ends according to a decoder that reads all of it; `None` when it refuses.
fn reference(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
    serde::Deserialize::deserialize(&mut deserializer).ok().map(|IgnoredAny| ())?;
    Some(bytes.len() - rest.len())
}

/// Whether the walk's answer about `bytes` fits the reference's.
fn agrees(bytes: &[u8]) -> Result<(), TestCaseError> {
    let walked = check_value(bytes, ValueLimits::PAYLOAD);
    let read = reference(bytes);
    match walked {
        Ok(length) => prop_assert_eq!(Some(length), read),
        Err(ValueError::Truncated { .. }) => prop_assert_eq!(None, read),
        // The reference allows both, so it is asked about a neighbour without them.
        Err(ValueError::TypeNotAllowed { at, byte }) => {
            prop_assert_eq!(bytes[at], byte);
            prop_assert!(matches!(byte, 0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8));
        }
        Err(ValueError::NotUtf8 { at }) => prop_assert!(matches!(bytes[at], 0xa0..=0xbf | 0xd9..=0xdb)),
        Err(ValueError::TooDeep { limit, .. }) => prop_assert_eq!(limit, PAYLOAD_DEPTH_MAX),
        Err(other) => prop_assert!(false, "{other} cannot be"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, ..ProptestConfig::default() })]

    #[test]
    fn the_walk_takes_exactly_the_values_that_are_allowed(value in wire(), after in vec(any::<u8>(), 0..8)) {
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        let length = bytes.len();
        bytes.extend(after);
        let (depth, count, allowed) = value.measure();
        let walked = check_value(&bytes, ValueLimits::PAYLOAD);
        if allowed {
            prop_assert_eq!(walked, Ok(length));
            prop_assert_eq!(reference(&bytes), Some(length));
            let limits = |depth_max, values_max| ValueLimits { depth_max, values_max, string_bytes_max: usize::MAX };
            prop_assert_eq!(check_value(&bytes, limits(depth, count)), Ok(length), "the limits are inclusive");
            if depth > 0 {
                let refused = matches!(check_value(&bytes, limits(depth - 1, count)), Err(ValueError::TooDeep { .. }));
                prop_assert!(refused, "deeper than {}", depth - 1);
            }
            let refused = matches!(check_value(&bytes, limits(depth, count - 1)), Err(ValueError::TooMany { .. }));
            prop_assert!(refused, "more than {}", count - 1);
            for cut in 0..length.min(64) {
                let short = check_value(&bytes[..cut], ValueLimits::PAYLOAD);
                prop_assert_eq!(short, Err(ValueError::Truncated { at: cut }));
            }
        } else {
            let refused = matches!(walked, Err(ValueError::TypeNotAllowed { .. } | ValueError::NotUtf8 { .. }));
            prop_assert!(refused, "{walked:?}");
        }
        agrees(&bytes)?;
    }

    #[test]
    fn the_walk_agrees_with_a_decoder_about_mutated_values(
        value in wire(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        agrees(&bytes)?;
        bytes.truncate(keep.index(bytes.len()) + 1);
        agrees(&bytes)?;
    }

    #[test]
    fn the_walk_agrees_with_a_decoder_about_any_bytes(bytes in vec(any::<u8>(), 0..300)) {
        agrees(&bytes)?;
    }

    #[test]
    fn the_walk_takes_all_that_json_can_say(value in value()) {
        let bytes = rmp_serde::to_vec(&value).unwrap();
        prop_assert_eq!(check_value(&bytes, ValueLimits::PAYLOAD), Ok(bytes.len()));
        let read: Value = rmp_serde::from_slice(&bytes).unwrap();
        prop_assert_eq!(read, value);
    }

    /// A body is a value of its own whose keys are texts, each once.
    #[test]
    fn a_body_is_a_map_of_distinct_texts(
        pairs in prop_oneof![
            vec((key(), any::<u8>().prop_map(|n| Wire::Plain(vec![n & 0x7f]))), 0..7),
            vec((key(), wire()), 0..70),
        ],
        width in 0_u8..4,
        after in vec(any::<u8>(), 0..8),
    ) {
        let keys = pairs.iter().map(|((_, key), _)| key.clone()).collect::<Vec<_>>();
        let wires = pairs.iter().map(|((width, key), value)| {
            (Wire::Text { width: *width, bytes: key.clone().into_bytes() }, value.clone())
        });
        let map = Wire::Map { width, pairs: wires.collect() };
        let mut bytes = Vec::new();
        map.write(&mut bytes);
        let length = bytes.len();
        bytes.extend(after);
        let twice = (1..keys.len()).any(|at| keys[..at].contains(&keys[at]));
        match check_body(&bytes) {
            Ok(end) => {
                prop_assert_eq!(end, length);
                prop_assert!(!twice && keys.len() <= BODY_KEYS_MAX && map.measure().2);
            }
            Err(ValueError::KeyTwice { .. }) => prop_assert!(twice),
            Err(ValueError::TooMany { limit: BODY_KEYS_MAX, .. }) => prop_assert!(keys.len() > BODY_KEYS_MAX),
            Err(ValueError::TypeNotAllowed { .. } | ValueError::NotUtf8 { .. }) => prop_assert!(!map.measure().2),
            Err(ValueError::TooMany { .. }) => prop_assert!(map.measure().1 > protocol::BODY_VALUES_MAX),
            Err(other) => prop_assert!(false, "{other} cannot be"),
        }
    }
}
