#!/bin/sh
# Builds the launcher (static, small, see the profile `launcher` in the root Cargo.toml) and puts it beside the daemon.
#
#   supervisor/launcher/build.sh [debug|release] [OUT_DIR]
#
# The launcher itself is the same in both cases; the word says beside which daemon it goes, unless OUT_DIR does.
# Linked against musl where rustup has that target, else statically against glibc; PALISADE_LAUNCHER_LIBC=musl|glibc
# decides otherwise. Quick when nothing changed, and safe when several run at once: cargo takes turns on the build
# directory, and the program is put into place by renaming.
set -eu

crate=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
root=$(CDPATH='' cd -- "$crate/../.." && pwd -P)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$PWD/$target ;; esac

kind=${1:-debug}
case $kind in
debug | release) out=${2:-$target/$kind} ;;
*)
    echo "usage: $0 [debug|release] [OUT_DIR]" >&2
    exit 64
    ;;
esac

host=$(rustc -vV | sed -n 's/^host: //p')
arch=${host%%-*}
libc=${PALISADE_LAUNCHER_LIBC:-}
if [ -z "$libc" ]; then
    if [ -d "$(rustc --print target-libdir --target "$arch-unknown-linux-musl" 2>/dev/null)" ]; then
        libc=musl
    else
        libc=glibc
    fi
fi
case $libc in
musl) triple=$arch-unknown-linux-musl ;;
glibc) triple=$arch-unknown-linux-gnu ;;
*)
    echo "$0: PALISADE_LAUNCHER_LIBC must be musl or glibc, not $libc" >&2
    exit 64
    ;;
esac

# Not relocatable: relocating would write to, and so make private, pages that all launchers share as they are. A target
# given by name keeps these flags away from build scripts and procedural macros, which must stay dynamic.
unset CARGO_ENCODED_RUSTFLAGS
RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' \
    cargo build --quiet --manifest-path "$crate/Cargo.toml" --profile launcher --features program \
    --target "$triple" --target-dir "$target/launcher"

built=$target/launcher/$triple/launcher/palisade-launcher
mkdir -p "$out"
if ! cmp -s "$built" "$out/palisade-launcher"; then
    cp "$built" "$out/.palisade-launcher.$$"
    mv -f "$out/.palisade-launcher.$$" "$out/palisade-launcher"
fi
