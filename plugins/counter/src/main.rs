//! A plugin that keeps state. What it does is in the library beside this; `bin/counter-1.rs` is its first version.

use palisade_sdk::Exit;

fn main() -> Exit {
    counter::second().run()
}
