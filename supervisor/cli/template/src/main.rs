//! A Palisade plugin. Change the greeting into what it is for; `cargo doc -p palisade-sdk --open` has the rest.

use palisade_sdk::{Call, Exit, Plugin, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whom to greet.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Greet {
    name: String,
}

#[derive(Serialize, JsonSchema)]
struct Greeting {
    text: String,
}

async fn greet(_: Call, greet: Greet) -> Result<Greeting> {
    Ok(Greeting { text: format!("Hello, {}!", greet.name) })
}

fn plugin() -> Plugin {
    Plugin::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")).action("greet", "Greets somebody by name.", greet)
}

fn main() -> Exit {
    plugin().run()
}

#[cfg(test)]
mod tests {
    use palisade_sdk::testing::TestHost;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn it_greets_by_name() {
        let host = TestHost::start(plugin()).await.unwrap();
        let greeting: Value = host.call("greet", &json!({"name": "Ada"})).await.unwrap();
        assert_eq!(greeting, json!({"text": "Hello, Ada!"}));
        assert_eq!(host.stop().await.status(), 0);
    }

    /// `cargo run -- --palisade-manifest` prints what belongs into plugin.json.
    #[test]
    fn plugin_json_has_what_the_code_has() {
        let written: Value = serde_json::from_str(include_str!("../plugin.json")).unwrap();
        let known: Value = serde_json::from_str(&plugin().manifest()).unwrap();
        for (field, value) in known.as_object().unwrap() {
            assert_eq!(&written[field], value, "{field}");
        }
    }
}
