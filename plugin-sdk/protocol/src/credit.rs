//! Credit: how many bytes of stream data and continuations may be under way in one direction of one call.
//!
//! Both halves only count. The sender spends before it sends, the receiver charges what arrives and says when to grant more.
//! `len` is always that of the frame's header: what follows it, body included.

/// Most credit that may be outstanding in one direction of one call.
pub const CREDIT_OUTSTANDING_MAX: u64 = 1 << 31;

/// Why a sender or a receiver broke the rules of credit; the connection cannot go on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CreditError {
    /// More arrived than was granted.
    #[error("{len} bytes arrived with a credit of {left}")]
    Exceeded {
        /// The frame's length.
        len: u32,
        /// What was left.
        left: u64,
    },
    /// More was granted than may be outstanding.
    #[error("a grant of {bytes} bytes raises the credit above {CREDIT_OUTSTANDING_MAX}")]
    TooMuch {
        /// The grant.
        bytes: u32,
    },
}

/// The sender's half.
#[derive(Debug, Clone, Copy)]
pub struct SendCredit {
    left: u64,
    window: u32,
}

impl SendCredit {
    /// Begins with what `Welcome` said.
    #[must_use]
    pub const fn new(credit_bytes: u32) -> Self {
        Self { left: credit_bytes as u64, window: credit_bytes }
    }

    /// What may be sent at the moment.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The receiver granted more.
    ///
    /// # Errors
    /// [`CreditError::TooMuch`].
    pub const fn grant(&mut self, bytes: u32) -> Result<(), CreditError> {
        let left = self.left + bytes as u64;
        if left > CREDIT_OUTSTANDING_MAX {
            return Err(CreditError::TooMuch { bytes });
        }
        self.left = left;
        Ok(())
    }

    /// How long the next frame of at most `wanted` bytes may be; 0 means: wait for more credit. It never returns a sliver
    /// when waiting would soon bring more, and never waits while the receiver owes nothing.
    #[must_use]
    pub fn next_len(&self, wanted: u64) -> u64 {
        let least = wanted.min(16 << 10).min(u64::from(self.window) / 4).max(2);
        if self.left >= least { self.left.min(wanted) } else { 0 }
    }

    /// Spends `len` bytes that [`SendCredit::next_len`] allowed.
    pub const fn spend(&mut self, len: u64) {
        self.left = self.left.saturating_sub(len);
    }
}

/// The receiver's half.
#[derive(Debug, Clone, Copy)]
pub struct ReceiveCredit {
    left: u64,
    owed: u64,
    window: u32,
}

impl ReceiveCredit {
    /// Begins with what `Welcome` said.
    #[must_use]
    pub const fn new(credit_bytes: u32) -> Self {
        Self { left: credit_bytes as u64, owed: 0, window: credit_bytes }
    }

    /// A frame of that length arrived.
    ///
    /// # Errors
    /// [`CreditError::Exceeded`] when the sender had not so much.
    pub const fn charge(&mut self, len: u32) -> Result<(), CreditError> {
        if len as u64 > self.left {
            return Err(CreditError::Exceeded { len, left: self.left });
        }
        self.left -= len as u64;
        Ok(())
    }

    /// That many charged bytes were used up. Returns what to grant now: nothing until it is half of the window, so that grants
    /// stay rare.
    #[must_use]
    pub fn consumed(&mut self, bytes: u64) -> Option<u32> {
        self.owed += bytes;
        if self.owed == 0 || self.owed < u64::from(self.window) / 2 {
            return None;
        }
        // Less than the window can be owed, as that is all there ever is outside.
        let grant = u32::try_from(self.owed).unwrap_or(u32::MAX);
        self.owed -= u64::from(grant);
        self.left += u64::from(grant);
        Some(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_waits_for_a_useful_amount_and_never_forever() {
        let mut credit = SendCredit::new(1 << 20);
        assert_eq!(credit.next_len(100), 100);
        assert_eq!(credit.next_len(4 << 20), 1 << 20);
        credit.spend((1 << 20) - 1000);
        assert_eq!(credit.next_len(1000), 1000, "what fits whole goes");
        assert_eq!(credit.next_len(1001), 1001.min(credit.next_len(1001)));
        assert_eq!(credit.next_len(1 << 20), 0, "a sliver waits");
        credit.grant(1 << 19).unwrap();
        assert_eq!(credit.next_len(1 << 20), (1 << 19) + 1000);
    }

    #[test]
    fn a_receiver_notices_too_much_and_grants_by_halves() {
        let mut credit = ReceiveCredit::new(100);
        credit.charge(60).unwrap();
        assert_eq!(credit.charge(41), Err(CreditError::Exceeded { len: 41, left: 40 }));
        assert_eq!(credit.consumed(49), None);
        assert_eq!(credit.consumed(1), Some(50));
        credit.charge(90).unwrap();
    }

    #[test]
    fn any_window_moves_any_amount() {
        for window in [8, 9, 64, 1000, 1 << 16, 1 << 20] {
            let (mut send, mut receive) = (SendCredit::new(window), ReceiveCredit::new(window));
            let mut left = 3 * u64::from(window) + 7;
            while left > 0 {
                let len = send.next_len(left);
                assert!(len > 0, "window {window} is stuck with {left} to go");
                send.spend(len);
                receive.charge(u32::try_from(len).unwrap()).unwrap();
                left -= len;
                if let Some(grant) = receive.consumed(len) {
                    send.grant(grant).unwrap();
                }
            }
        }
    }

    #[test]
    fn outstanding_credit_is_bounded() {
        let mut credit = SendCredit::new(1 << 20);
        assert_eq!(credit.grant(u32::MAX), Err(CreditError::TooMuch { bytes: u32::MAX }));
        assert_eq!(credit.left(), 1 << 20);
    }
}
