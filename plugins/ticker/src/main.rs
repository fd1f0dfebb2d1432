//! A stream without an end, and a configuration that changes while it runs. What it does is in the library beside this.

use palisade_sdk::Exit;

fn main() -> Exit {
    ticker::plugin().run()
}
