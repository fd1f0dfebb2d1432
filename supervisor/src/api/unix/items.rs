//! What an operation of the daemon's answers: its stream of items, and its result.

use std::sync::Arc;

use palisade_protocol::{
    Empty, ErrorBody, ErrorCode, FRAME_BYTES_MAX, Flags, Kind, PIECE_BYTES, StreamKind, StreamOpen, encode_value,
};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::answers::Shared;
use crate::api::service::Items;
use crate::plugin::call::{Caller, Ends, body};

/// The output stream of an operation.
pub(super) struct StreamItems {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u64,
    pub(super) credit: Arc<Semaphore>,
    pub(super) open: bool,
}

impl Items for StreamItems {
    fn open(&mut self) {
        if !self.open {
            self.open = true;
            let open = body(&StreamOpen { kind: StreamKind::Items });
            self.shared.frame(self.id, Kind::StreamOpen, Flags::NONE, &open, Ends::No);
        }
    }

    async fn send(&mut self, item: Value) -> Result<(), ErrorBody> {
        self.open();
        let mut content = body(&Empty {});
        encode_value(&mut content, &item).map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
        let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
        match self.credit.acquire_many(bytes).await {
            Ok(spent) => spent.forget(),
            Err(_) => return Err(ErrorBody::new(ErrorCode::Cancelled, "nobody reads any more")),
        }
        self.shared.frame(self.id, Kind::StreamData, Flags::NONE, &content, Ends::No);
        Ok(())
    }
}

impl StreamItems {
    /// The end of the stream, if there was one, and the result: in pieces, if it is long.
    pub(super) async fn finish(&mut self, value: &Value) {
        if self.open {
            self.shared.frame(self.id, Kind::StreamEnd, Flags::NONE, &body(&Empty {}), Ends::No);
        }
        let mut payload = Vec::new();
        if let Err(error) = encode_value(&mut payload, value) {
            let error = ErrorBody::new(ErrorCode::Internal, error.to_string());
            return self.shared.frame(self.id, Kind::Err, Flags::NONE, &body(&error), Ends::Yes);
        }
        let empty = body(&Empty {});
        let continues = self.shared.state().continues;
        // An agent that takes no pieces gets it whole, if that is possible at all.
        let fits = payload.len() + empty.len() <= FRAME_BYTES_MAX as usize;
        let piece_bytes = if continues || !fits { PIECE_BYTES } else { payload.len().max(1) };
        let mut pieces = payload.chunks(piece_bytes).peekable();
        let mut kind = Kind::Ok;
        while let Some(piece) = pieces.next() {
            let content = [&empty, piece].concat();
            if kind == Kind::Continue {
                let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
                match self.credit.acquire_many(bytes).await {
                    Ok(spent) => spent.forget(),
                    Err(_) => return,
                }
            }
            let (flags, ends) =
                if pieces.peek().is_some() { (Flags::MORE, Ends::No) } else { (Flags::NONE, Ends::Yes) };
            self.shared.frame(self.id, kind, flags, &content, ends);
            kind = Kind::Continue;
        }
    }
}
