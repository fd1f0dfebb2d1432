//! The first version of the plugin, from whose state the second goes on.

use palisade_sdk::Exit;

fn main() -> Exit {
    counter::first().run()
}
