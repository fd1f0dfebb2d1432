//! Walks a MessagePack value without building it: is it well formed, within limits, and where does it end?
//!
//! Everything that is decoded has passed this walk first. It keeps its own stack of fixed size, so no input makes it recurse, and
//! it compares every announced count with the bytes that are really there, so a map that promises 2^32 entries is refused at
//! once. Extension types are refused: nothing in the protocol uses them.

use crate::limits::{
    BODY_DEPTH_MAX, BODY_KEYS_MAX, BODY_VALUES_MAX, PAYLOAD_DEPTH_MAX, SCHEMA_VALUES_MAX, STRING_BYTES_MAX, VALUES_MAX,
};

/// How much a value may hold.
#[derive(Debug, Clone, Copy)]
pub struct ValueLimits {
    /// Deepest nesting; a scalar has depth 0, `[1]` has depth 1. At most [`PAYLOAD_DEPTH_MAX`].
    pub depth_max: usize,
    /// Most values in all, keys included.
    pub values_max: usize,
    /// Longest string in bytes.
    pub string_bytes_max: usize,
}

impl ValueLimits {
    /// For a frame's body.
    pub const BODY: Self =
        Self { depth_max: BODY_DEPTH_MAX, values_max: BODY_VALUES_MAX, string_bytes_max: STRING_BYTES_MAX };
    /// For the body of a `Welcome`, `Ready` or `Configure`.
    pub const SCHEMA_BODY: Self =
        Self { depth_max: BODY_DEPTH_MAX, values_max: SCHEMA_VALUES_MAX, string_bytes_max: STRING_BYTES_MAX };
    /// For a payload; the frame and payload limits bound its strings.
    pub const PAYLOAD: Self =
        Self { depth_max: PAYLOAD_DEPTH_MAX, values_max: VALUES_MAX, string_bytes_max: usize::MAX };
}

/// Why a value was refused. `at` is the offset of the byte in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The bytes end before the value does.
    #[error("the value is cut off at byte {at}")]
    Truncated {
        /// Where more was expected.
        at: usize,
    },
    /// Deeper than allowed.
    #[error("nesting deeper than {limit} at byte {at}")]
    TooDeep {
        /// Where the limit was passed.
        at: usize,
        /// The limit.
        limit: usize,
    },
    /// More values than allowed.
    #[error("more than {limit} values at byte {at}")]
    TooMany {
        /// Where the limit was passed.
        at: usize,
        /// The limit.
        limit: usize,
    },
    /// A string longer than allowed.
    #[error("a string of {bytes} bytes at byte {at}, more than {limit}")]
    StringTooLong {
        /// Where the string begins.
        at: usize,
        /// Its announced length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A string that is not UTF-8.
    #[error("a string at byte {at} is not UTF-8")]
    NotUtf8 {
        /// Where the string begins.
        at: usize,
    },
    /// An extension type, or the one byte that MessagePack never uses.
    #[error("the type byte 0x{byte:02x} at byte {at} is not allowed")]
    TypeNotAllowed {
        /// Where it stands.
        at: usize,
        /// The byte.
        byte: u8,
    },
    /// A body that is not a map.
    #[error("the body is not a map")]
    NotAMap,
    /// A key of the body's own map that is not a string.
    #[error("a key of the body at byte {at} is not a string")]
    KeyNotAString {
        /// Where it stands.
        at: usize,
    },
    /// The same key twice in the body's own map.
    #[error("the key at byte {at} of the body stands there twice")]
    KeyTwice {
        /// Where it stands the second time.
        at: usize,
    },
    /// Bytes after the value where none belong.
    #[error("{bytes} bytes follow the value")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// Checks one value at the beginning of `bytes` and says how long it is.
///
/// # Errors
/// [`ValueError`] when the value is malformed, cut off, or beyond `limits`.
pub fn check_value(bytes: &[u8], limits: ValueLimits) -> Result<usize, ValueError> {
    let mut walk = Walk { bytes, at: 0, values: 0, limits };
    walk.value()?;
    Ok(walk.at)
}

/// Checks a frame's body at the beginning of `bytes` (a map with unique string keys) and says how long it is; the payload
/// begins there.
///
/// # Errors
/// [`ValueError`] when the body is not such a map, is malformed, cut off, or beyond [`ValueLimits::BODY`].
pub fn check_body(bytes: &[u8]) -> Result<usize, ValueError> {
    check_body_within(bytes, ValueLimits::BODY)
}

/// As [`check_body`], with limits that depend on the kind of frame.
pub(crate) fn check_body_within(bytes: &[u8], limits: ValueLimits) -> Result<usize, ValueError> {
    // Most frames have nothing to say in their body.
    if bytes.first() == Some(&0x80) {
        return Ok(1);
    }
    let mut walk = Walk { bytes, at: 0, values: 1, limits };
    let count = match walk.byte()? {
        marker @ 0x80..=0x8f => usize::from(marker & 0x0f),
        0xde => walk.unsigned(2)?,
        0xdf => walk.unsigned(4)?,
        _ => return Err(ValueError::NotAMap),
    };
    if count > BODY_KEYS_MAX {
        return Err(ValueError::TooMany { at: 0, limit: BODY_KEYS_MAX });
    }
    // Clearing room for all the keys there may be would take longer than walking what most frames have.
    if count <= FEW_KEYS {
        walk.entries::<FEW_KEYS>(count)?
    } else {
        walk.entries::<BODY_KEYS_MAX>(count)?
    }
    Ok(walk.at)
}

/// As many keys as the frames of calls and streams have.
const FEW_KEYS: usize = 6;

/// What a value is that begins with this byte, for people.
pub(crate) const fn noun(marker: u8) -> &'static str {
    match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xcc..=0xd3 => "an integer",
        0x80..=0x8f | 0xde | 0xdf => "a map",
        0x90..=0x9f | 0xdc | 0xdd => "a list",
        0xa0..=0xbf | 0xd9..=0xdb => "a text",
        0xc0 => "nil",
        0xc2 | 0xc3 => "a boolean",
        0xc4..=0xc6 => "binary",
        0xca | 0xcb => "a float",
        0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => "an extension",
    }
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    values: usize,
    limits: ValueLimits,
}

impl<'a> Walk<'a> {
    fn value(&mut self) -> Result<(), ValueError> {
        self.nested(0)
    }

    /// Walks `count` entries of a body's own map, of which there are at most `MAX`.
    fn entries<const MAX: usize>(&mut self, count: usize) -> Result<(), ValueError> {
        let mut keys: [&[u8]; MAX] = [&[]; MAX];
        for seen in 0..count {
            let at = self.at;
            let key = self.key()?;
            if keys[..seen].contains(&key) {
                return Err(ValueError::KeyTwice { at });
            }
            keys[seen] = key;
            self.nested(1)?;
        }
        Ok(())
    }

    /// Walks one value that stands `outside` levels deep.
    fn nested(&mut self, outside: usize) -> Result<(), ValueError> {
        let mut start = self.at;
        // Most values are scalars, for which the stack below need not even be cleared.
        let Some(mut children) = self.scalar_or_count()? else { return Ok(()) };
        // `left[depth]` counts the values still to come at that depth.
        let mut left = [0_usize; PAYLOAD_DEPTH_MAX + 1];
        let mut depth = 0;
        loop {
            // Each child is a byte at least, so a count beyond what is left can be refused before walking.
            if children > self.bytes.len() - self.at {
                return Err(ValueError::Truncated { at: self.bytes.len() });
            }
            depth += 1;
            if outside + depth > self.limits.depth_max || depth > PAYLOAD_DEPTH_MAX {
                return Err(ValueError::TooDeep { at: start, limit: self.limits.depth_max });
            }
            left[depth] = children;
            children = loop {
                while left[depth] == 0 {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                left[depth] -= 1;
                start = self.at;
                if let Some(children) = self.scalar_or_count()? {
                    break children;
                }
            };
        }
    }

    /// Steps over one scalar, or over the head of an array or map and returns how many values it holds.
    fn scalar_or_count(&mut self) -> Result<Option<usize>, ValueError> {
        let start = self.at;
        self.values += 1;
        if self.values > self.limits.values_max {
            return Err(ValueError::TooMany { at: start, limit: self.limits.values_max });
        }
        match self.byte()? {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => {}
            marker @ 0x80..=0x8f => return Ok(Some(2 * usize::from(marker & 0x0f))),
            marker @ 0x90..=0x9f => return Ok(Some(usize::from(marker & 0x0f))),
            marker @ 0xa0..=0xbf => self.string(start, usize::from(marker & 0x1f))?,
            0xc4 => self.skip_counted(1)?,
            0xc5 => self.skip_counted(2)?,
            0xc6 => self.skip_counted(4)?,
            0xcc | 0xd0 => self.skip(1)?,
            0xcd | 0xd1 => self.skip(2)?,
            0xca | 0xce | 0xd2 => self.skip(4)?,
            0xcb | 0xcf | 0xd3 => self.skip(8)?,
            marker @ 0xd9..=0xdb => {
                let bytes = self.unsigned(1 << (marker - 0xd9))?;
                self.string(start, bytes)?;
            }
            0xdc => return self.unsigned(2).map(Some),
            0xdd => return self.unsigned(4).map(Some),
            0xde => return self.unsigned(2).map(|pairs| Some(2 * pairs)),
            0xdf => return self.unsigned(4).map(|pairs| Some(pairs.saturating_mul(2))),
            byte @ (0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8) => {
                return Err(ValueError::TypeNotAllowed { at: start, byte });
            }
        }
        Ok(None)
    }

    fn key(&mut self) -> Result<&'a [u8], ValueError> {
        let start = self.at;
        let bytes = match self.byte()? {
            marker @ 0xa0..=0xbf => usize::from(marker & 0x1f),
            marker @ 0xd9..=0xdb => self.unsigned(1 << (marker - 0xd9))?,
            _ => return Err(ValueError::KeyNotAString { at: start }),
        };
        let text = self.at;
        self.values += 1;
        self.string(start, bytes)?;
        Ok(&self.bytes[text..self.at])
    }

    fn string(&mut self, start: usize, bytes: usize) -> Result<(), ValueError> {
        if bytes > self.limits.string_bytes_max {
            return Err(ValueError::StringTooLong { at: start, bytes, limit: self.limits.string_bytes_max });
        }
        let text = self.at;
        self.skip(bytes)?;
        let text = &self.bytes[text..self.at];
        // Most texts are short and plain, for which the first question is the cheaper one.
        if text.is_ascii() || std::str::from_utf8(text).is_ok() {
            Ok(())
        } else {
            Err(ValueError::NotUtf8 { at: start })
        }
    }

    fn byte(&mut self) -> Result<u8, ValueError> {
        let byte = *self.bytes.get(self.at).ok_or(ValueError::Truncated { at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    /// Reads a big-endian number of `width` bytes: 1, 2 or 4.
    fn unsigned(&mut self, width: usize) -> Result<usize, ValueError> {
        let start = self.at;
        self.skip(width)?;
        Ok(self.bytes[start..self.at].iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn skip_counted(&mut self, width: usize) -> Result<(), ValueError> {
        let bytes = self.unsigned(width)?;
        self.skip(bytes)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), ValueError> {
        if bytes > self.bytes.len() - self.at {
            return Err(ValueError::Truncated { at: self.bytes.len() });
        }
        self.at += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<usize, ValueError> {
        check_value(bytes, ValueLimits::BODY)
    }

    #[test]
    fn every_kind_of_value_has_its_length() {
        let table: &[(&[u8], usize)] = &[
            (&[0x00], 1),
            (&[0xff], 1),
            (&[0xc0], 1),
            (&[0xca, 0, 0, 0, 0], 5),
            (&[0xcb, 0, 0, 0, 0, 0, 0, 0, 0], 9),
            (&[0xcc, 1], 2),
            (&[0xd1, 1, 1], 3),
            (&[0xce, 1, 1, 1, 1], 5),
            (&[0xa3, b'a', b'b', b'c', 0x01], 4),
            (&[0xd9, 1, b'a'], 3),
            (&[0xda, 0, 1, b'a'], 4),
            (&[0xdb, 0, 0, 0, 1, b'a'], 6),
            (&[0xc4, 2, 9, 9], 4),
            (&[0x92, 0x01, 0x91, 0x02], 4),
            (&[0x81, 0xa1, b'k', 0x90], 4),
            (&[0xdc, 0, 1, 0x05], 4),
            (&[0xde, 0, 1, 0x05, 0x06], 5),
        ];
        for (bytes, length) in table {
            assert_eq!(check(bytes), Ok(*length), "{bytes:02x?}");
        }
    }

    #[test]
    fn announced_counts_are_compared_with_the_bytes_there() {
        assert_eq!(check(&[0xdf, 0xff, 0xff, 0xff, 0xff, 0x01]), Err(ValueError::Truncated { at: 6 }));
        assert_eq!(check(&[0xdb, 0x00, 0x00, 0x10, 0x00]), Err(ValueError::Truncated { at: 5 }));
        assert_eq!(check(&[]), Err(ValueError::Truncated { at: 0 }));
    }

    #[test]
    fn nesting_ends_at_the_limit_exactly() {
        let nested = |levels: usize| [vec![0x91; levels], vec![0x00]].concat();
        assert_eq!(check(&nested(BODY_DEPTH_MAX)), Ok(BODY_DEPTH_MAX + 1));
        let too_deep = Err(ValueError::TooDeep { at: BODY_DEPTH_MAX, limit: BODY_DEPTH_MAX });
        assert_eq!(check(&nested(BODY_DEPTH_MAX + 1)), too_deep);
        assert_eq!(
            check(&[vec![0x91; BODY_DEPTH_MAX], vec![0x90]].concat()),
            too_deep,
            "an empty array counts as well"
        );
        assert!(matches!(check(&nested(1025)), Err(ValueError::TooDeep { .. })));
        let payload = |levels| check_value(&nested(levels), ValueLimits::PAYLOAD);
        assert_eq!(payload(PAYLOAD_DEPTH_MAX), Ok(PAYLOAD_DEPTH_MAX + 1));
        assert!(matches!(payload(PAYLOAD_DEPTH_MAX + 1), Err(ValueError::TooDeep { .. })));
    }

    #[test]
    fn a_body_nests_no_deeper_for_being_a_map() {
        let body = |levels: usize| [vec![0x81, 0xa1, b'k'], vec![0x91; levels], vec![0x00]].concat();
        assert_eq!(check_body(&body(BODY_DEPTH_MAX - 1)), Ok(BODY_DEPTH_MAX + 3));
        assert!(matches!(check_body(&body(BODY_DEPTH_MAX)), Err(ValueError::TooDeep { .. })));
    }

    #[test]
    fn the_wrong_kinds_are_refused_by_place() {
        assert_eq!(check(&[0x91, 0xd4, 0x01, 0x01]), Err(ValueError::TypeNotAllowed { at: 1, byte: 0xd4 }));
        assert_eq!(check(&[0xc1]), Err(ValueError::TypeNotAllowed { at: 0, byte: 0xc1 }));
        assert_eq!(check(&[0xa2, 0xff, 0xfe]), Err(ValueError::NotUtf8 { at: 0 }));
        assert_eq!(check_body(&[0x90]), Err(ValueError::NotAMap));
        assert_eq!(check_body(&[0x81, 0x01, 0x02]), Err(ValueError::KeyNotAString { at: 1 }));
        assert_eq!(check_body(&[0x82, 0xa1, b'k', 0x01, 0xa1, b'k', 0x01]), Err(ValueError::KeyTwice { at: 4 }));
        assert_eq!(check_body(&[0xde, 0x00, 0x41]), Err(ValueError::TooMany { at: 0, limit: BODY_KEYS_MAX }));
    }

    #[test]
    fn a_body_ends_where_its_payload_begins() {
        assert_eq!(check_body(&[0x80, 0xff, 0xff]), Ok(1));
        assert_eq!(check_body(&[0x81, 0xa1, b'k', 0x07, 0xc1]), Ok(4));
    }

    #[test]
    fn too_many_values_and_too_long_strings_are_refused() {
        let limits = ValueLimits { depth_max: 2, values_max: 3, string_bytes_max: 4 };
        assert_eq!(check_value(&[0x92, 1, 2], limits), Ok(3));
        assert_eq!(check_value(&[0x93, 1, 2, 3], limits), Err(ValueError::TooMany { at: 3, limit: 3 }));
        let long = Err(ValueError::StringTooLong { at: 0, bytes: 5, limit: 4 });
        assert_eq!(check_value(&[0xa5, b'a', b'b', b'c', b'd', b'e'], limits), long);
    }
}
