//! What a plugin says of itself for people: who made it, under which licence, what it is for. None of it has any power.

use std::fmt;

use super::PackagePath;
use super::read::{Table, Text};

const TAGS_MAX: usize = 16;

/// As long as a name of anything that is typed.
const TAG_BYTES_MAX: usize = 40;

const LICENSE_BYTES_MAX: usize = 256;

const URL_BYTES_MAX: usize = 2048;

/// Who made it, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    pub author: Option<String>,
    /// An SPDX expression, as it was written.
    pub license: Option<String>,
    /// An address of the web.
    pub homepage: Option<String>,
    /// A picture in the package.
    pub icon: Option<PackagePath>,
    pub tags: Vec<String>,
    pub kind: Kind,
    pub capabilities: Vec<Capability>,
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$mark:meta])* $word:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$mark])* $word),+ }

        impl $name {
            /// All of them, as they are written.
            pub const NAMED: &[(&str, Self)] = &[$(($text, Self::$word)),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// What kind of plugin it is.
    #[derive(Default)]
    Kind {
        #[default]
        Tool = "tool",
        LlmProvider = "llm_provider",
        DataSource = "data_source",
        UiExtension = "ui_extension",
        Workflow = "workflow",
    }
}

words! {
    /// What it can be looked for by.
    Capability {
        DataProcessing = "data_processing",
        ModelInference = "model_inference",
        AgentSkill = "agent_skill",
        Integration = "integration",
        Visualization = "visualization",
        Monitoring = "monitoring",
        Security = "security",
        Custom = "custom",
    }
}

pub(super) fn read(root: &mut Table<'_, '_>) -> About {
    About {
        author: root.text_if_any("author", Text::line(256)),
        license: root.parsed_if_any("license", "an SPDX expression, such as MIT OR Apache-2.0", license),
        homepage: root.parsed_if_any("homepage", "a web address, such as https://example.com/tool", homepage),
        icon: root.parsed_if_any("icon", PackagePath::ALLOWED, PackagePath::read),
        tags: root.set("tags", TAGS_MAX, |place| place.parsed("a tag, such as pdf", tag)),
        kind: root.choice("kind", Kind::NAMED).unwrap_or_default(),
        capabilities: root.set("capabilities", Capability::NAMED.len(), |place| place.choice(Capability::NAMED)),
    }
}

fn license(text: &str) -> Result<String, String> {
    if LICENSE_BYTES_MAX < text.len() {
        return Err(format!("an SPDX expression has at most {LICENSE_BYTES_MAX} bytes here"));
    }
    match spdx::Expression::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        // Where it went wrong counts bytes of the text, which stands before this.
        Err(error) => Err(format!(
            "it is no SPDX expression ({}, at byte {}); allowed are identifiers of https://spdx.org/licenses, joined by AND, OR and \
             WITH, such as MIT OR Apache-2.0",
            error.reason, error.span.start
        )),
    }
}

/// Takes `http://host` and `https://host`, with a port and whatever follows, and nobody's name before the host: a link that is shown
/// leads where it seems to lead.
fn homepage(text: &str) -> Result<String, String> {
    let wrong = |what: &str| Err(format!("{what}; it has to be a web address, such as https://example.com/tool"));
    if URL_BYTES_MAX < text.len() {
        return wrong(&format!("it has more than {URL_BYTES_MAX} bytes"));
    }
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return wrong("it begins neither with https:// nor with http://");
    };
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}');
    if let Some(found) = text.chars().find(|c| !plain(*c)) {
        return wrong(&format!("it contains {found:?}"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !host.split('.').all(label) || 253 < host.len() {
        return wrong(&format!("{host:?} is no name of a host"));
    }
    let digits = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_some_and(|port| !digits(port)) {
        return wrong("what follows the colon is no port");
    }
    Ok(text.to_owned())
}

fn tag(text: &str) -> Result<String, String> {
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if begins && text.len() <= TAG_BYTES_MAX && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a tag has lower-case letters a-z, digits, `-` and `_`, begins with a letter or a digit, and has at most {TAG_BYTES_MAX} bytes"
    ))
}
