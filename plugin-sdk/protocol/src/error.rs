//! The taxonomy of errors: one table says for each code its class, whose fault it is, whether repeating can help, and how
//! HTTP, the command line and MCP show it. The documentation is checked against this table.

use std::fmt;

use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

/// Whose mistake an error is, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The one who called.
    Caller,
    /// The plugin.
    Plugin,
    /// The host: its configuration, its load, or Palisade itself.
    Host,
}

/// What kind of trouble an error is; the command line's exit status follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// What was named does not exist.
    NotFound,
    /// What was given is wrong.
    Invalid,
    /// It is not allowed.
    Denied,
    /// The action itself failed.
    Failed,
    /// It took too long.
    Timeout,
    /// The caller changed its mind.
    Cancelled,
    /// It cannot be done at the moment or on this host.
    Unavailable,
    /// The plugin broke, or broke a rule.
    Broken,
    /// Palisade itself failed.
    Internal,
}

/// How MCP shows an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum McpForm {
    /// A JSON-RPC error with this code.
    Rpc(i32),
    /// A tool result with `isError`.
    ToolResult,
}

/// One row of the table.
struct Row {
    code: ErrorCode,
    name: &'static str,
    class: Class,
    fault: Fault,
    retryable: bool,
    http: u16,
    exit: u8,
    mcp: McpForm,
    meaning: &'static str,
}

macro_rules! codes {
    ($($name:ident $text:literal $class:ident $fault:ident $retryable:literal $http:literal $exit:literal $mcp:expr, $meaning:literal;)*) => {
        /// Every error that Palisade reports has one of these codes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $(#[doc = $meaning] $name,)*
        }

        const TABLE: &[Row] = &[$(Row {
            code: ErrorCode::$name, name: $text, class: Class::$class, fault: Fault::$fault, retryable: $retryable,
            http: $http, exit: $exit, mcp: $mcp, meaning: $meaning,
        },)*];

        impl ErrorCode {
            /// Every code, in the table's order.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

use McpForm::{Rpc, ToolResult};

codes! {
    PluginNotFound "plugin_not_found" NotFound Caller false 404 3 Rpc(-32602), "No plugin has this id.";
    VersionNotFound "version_not_found" NotFound Caller false 404 3 Rpc(-32602), "The plugin exists, but in no version that fits.";
    ActionNotFound "action_not_found" NotFound Caller false 404 3 Rpc(-32602), "The plugin has no action of this name.";
    InvalidParams "invalid_params" Invalid Caller false 400 4 Rpc(-32602), "The parameters do not fit the action's schema.";
    InitializationFailed "initialization_failed" Unavailable Plugin true 503 8 ToolResult, "The plugin could not be started, or refused its configuration.";
    ConfigurationInvalid "configuration_invalid" Invalid Host false 500 4 ToolResult, "A configuration or manifest is wrong.";
    ExecutionFailed "execution_failed" Failed Plugin false 422 1 ToolResult, "The action ran and failed.";
    DependencyUnavailable "dependency_unavailable" Unavailable Host true 503 8 ToolResult, "Something that the plugin depends on is missing or down.";
    ResourceNotFound "resource_not_found" NotFound Caller false 404 3 ToolResult, "Something that the parameters name does not exist.";
    StreamingNotSupported "streaming_not_supported" Invalid Caller false 400 4 ToolResult, "The action or the plugin has no stream in this direction.";
    PermissionDenied "permission_denied" Denied Caller false 403 5 ToolResult, "The caller or the plugin lacks the permission.";
    ConsentRequired "consent_required" Denied Host false 403 5 ToolResult, "The operator has yet to agree to what the plugin asks for.";
    IntegrityFailed "integrity_failed" Denied Host false 409 5 ToolResult, "The files of a package are not those that its plugin.json pins.";
    ChecksumMissing "checksum_missing" Denied Host false 409 5 ToolResult, "The policy requires a digest of the package, and plugin.json has none.";
    SignatureMissing "signature_missing" Denied Host false 409 5 ToolResult, "The policy requires a signature, and plugin.json has none.";
    SignatureInvalid "signature_invalid" Denied Host false 409 5 ToolResult, "The signature is not one of that key for this plugin.json.";
    SignatureMethodMismatch "signature_method_mismatch" Denied Host false 409 5 ToolResult, "The signature says another method than its key is for.";
    SignatureExpired "signature_expired" Denied Host false 409 5 ToolResult, "The package was signed longer ago than the configuration allows.";
    SignatureNotYetValid "signature_not_yet_valid" Denied Host false 409 5 ToolResult, "The package was signed in the future, by this host's clock.";
    KeyUnknown "key_unknown" Denied Host false 409 5 ToolResult, "The package is signed by a key that the configuration does not have.";
    KeyRevoked "key_revoked" Denied Host false 409 5 ToolResult, "The package is signed by a key that is not trusted any more.";
    KeyNotAllowed "key_not_allowed" Denied Host false 409 5 ToolResult, "The package is signed by a key that may not sign for this plugin.";
    KeyUnusable "key_unusable" Denied Host false 409 5 ToolResult, "The key that signed the package cannot be read, or others may read it.";
    CheckFailed "check_failed" Denied Host false 409 5 ToolResult, "The program of a package has something that the configuration refuses: a library that is missing, an executable stack.";
    Timeout "timeout" Timeout Plugin true 504 6 ToolResult, "No answer within the deadline; the plugin was asked to cancel.";
    Cancelled "cancelled" Cancelled Caller false 499 130 ToolResult, "The caller cancelled.";
    Overloaded "overloaded" Unavailable Host true 429 8 ToolResult, "A queue is full; `retry_after_ms` says when to come back.";
    Unavailable "unavailable" Unavailable Host true 503 8 ToolResult, "The plugin takes no calls at the moment: stopped, paused, failed or shutting down.";
    Crashed "crashed" Broken Plugin true 502 7 ToolResult, "The plugin died during the call; the work may have been done.";
    ResourceExhausted "resource_exhausted" Broken Plugin false 507 7 ToolResult, "A limit of the plugin was reached; `details` says which.";
    ProtocolViolation "protocol_violation" Broken Plugin false 502 7 ToolResult, "The other end broke the wire protocol.";
    SandboxUnavailable "sandbox_unavailable" Unavailable Host false 503 8 ToolResult, "This host cannot confine the plugin as required.";
    Internal "internal" Internal Host false 500 70 Rpc(-32603), "Palisade itself failed; the log has more.";
}

impl ErrorCode {
    fn row(self) -> &'static Row {
        // The enum and the table are made from the same list, in the same order.
        &TABLE[self as usize]
    }

    /// The name on the wire, in logs and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The code of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.code)
    }

    /// What kind of trouble it is.
    #[must_use]
    pub fn class(self) -> Class {
        self.row().class
    }

    /// Whose mistake it is unless the error says otherwise.
    #[must_use]
    pub fn fault(self) -> Fault {
        self.row().fault
    }

    /// Whether the same request may succeed later without change.
    #[must_use]
    pub fn retryable(self) -> bool {
        self.row().retryable
    }

    /// The HTTP status.
    #[must_use]
    pub fn http_status(self) -> u16 {
        self.row().http
    }

    /// The command line's exit status.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        self.row().exit
    }

    /// How MCP shows it.
    #[must_use]
    pub fn mcp_form(self) -> McpForm {
        self.row().mcp
    }

    /// One sentence that says what it means.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.row().meaning
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error as it travels and as it is shown.
///
/// On the wire, `code` and `message` suffice: class, fault and retryability come from the table where they are absent or a name
/// that this version does not know, and a code that this version does not know is read as [`ErrorCode::ExecutionFailed`], its name kept in the message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(from = "WireError")]
#[error("{code}: {message}")]
pub struct ErrorBody {
    /// Which error.
    pub code: ErrorCode,
    /// What kind of trouble it is.
    pub class: Class,
    /// Whose mistake it is.
    pub fault: Fault,
    /// Whether the same request may succeed later without change.
    pub retryable: bool,
    /// When to come back, in milliseconds, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// A sentence for people, without the code.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// More, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

/// What an `Err` body may leave out.
#[derive(Deserialize)]
struct WireError {
    code: String,
    #[serde(default, deserialize_with = "if_known")]
    class: Option<Class>,
    #[serde(default, deserialize_with = "if_known")]
    fault: Option<Fault>,
    retryable: Option<bool>,
    retry_after_ms: Option<u64>,
    #[serde(default)]
    message: String,
    hint: Option<String>,
    details: Option<serde_json::Value>,
}

/// Reads a name, and takes one that this version does not know for absent: a newer end may have more classes, and its errors
/// have to arrive all the same.
fn if_known<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let name = Option::<String>::deserialize(deserializer)?;
    Ok(name.and_then(|name| T::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(name)).ok()))
}

impl From<WireError> for ErrorBody {
    fn from(wire: WireError) -> Self {
        let (code, message) = match ErrorCode::from_name(&wire.code) {
            Some(code) => (code, wire.message),
            None => (ErrorCode::ExecutionFailed, format!("{}: {}", wire.code, wire.message)),
        };
        Self {
            code,
            class: wire.class.unwrap_or(code.class()),
            fault: wire.fault.unwrap_or(code.fault()),
            retryable: wire.retryable.unwrap_or(code.retryable()),
            retry_after_ms: wire.retry_after_ms,
            message,
            hint: wire.hint,
            details: wire.details,
        }
    }
}

impl ErrorBody {
    /// An error with the table's class, fault and retryability.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            class: code.class(),
            fault: code.fault(),
            retryable: code.retryable(),
            retry_after_ms: None,
            message: message.into(),
            hint: None,
            details: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds more for programs.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Says when to come back; that makes it retryable.
    #[must_use]
    pub fn with_retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self.retryable = true;
        self
    }

    /// Says whose mistake it is, where that differs from the table.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_enum_with_unique_names() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.code as usize, index);
            assert_eq!(ErrorCode::from_name(row.name), Some(row.code));
            assert_eq!(serde_json::to_value(row.code).unwrap(), row.name, "serde and the table agree");
        }
        assert_eq!(TABLE.len(), 33);
    }

    #[test]
    fn code_and_message_suffice_on_the_wire() {
        let error: ErrorBody = serde_json::from_str(r#"{"code": "timeout", "message": "too slow"}"#).unwrap();
        assert_eq!(error, ErrorBody::new(ErrorCode::Timeout, "too slow"));
        let error: ErrorBody = serde_json::from_str(r#"{"code": "from_tomorrow", "message": "new"}"#).unwrap();
        assert_eq!(error, ErrorBody::new(ErrorCode::ExecutionFailed, "from_tomorrow: new"));
        let text = r#"{"code": "crashed", "class": "melted", "fault": "weather", "message": "new"}"#;
        let error: ErrorBody = serde_json::from_str(text).unwrap();
        assert_eq!(error, ErrorBody::new(ErrorCode::Crashed, "new"), "unknown names are taken for absent");
    }

    #[test]
    fn a_class_has_one_exit_status_apart_from_cancellation() {
        for row in TABLE {
            let expected = match row.class {
                Class::Failed => 1,
                Class::NotFound => 3,
                Class::Invalid => 4,
                Class::Denied => 5,
                Class::Timeout => 6,
                Class::Broken => 7,
                Class::Unavailable => 8,
                Class::Internal => 70,
                Class::Cancelled => 130,
            };
            assert_eq!(row.exit, expected, "{}", row.name);
        }
    }
}
