//! A network namespace of a test's own, with an address that is nobody else's and not loopback's.
//!
//! A thread enters it, so that what the thread starts is in it and the rest of the test is not; it goes with the last process in it.
//! Making one takes root. What such a thread starts as another user is in it all the same.

use std::net::Ipv4Addr;

use nix::sched::{CloneFlags, unshare};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// An address of the block that is set aside for documentation: no host has it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Does something on a thread in a network namespace of its own; where none can be made, in the one that there is.
///
/// # Panics
/// When that does, or when the namespace cannot be furnished.
pub fn in_one_of_its_own<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            match unshare(CloneFlags::CLONE_NEWNET) {
                Ok(()) => furnish().expect("a namespace of one's own can be changed"),
                Err(errno) => println!("no network namespace of its own: {errno}"),
            }
            act()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The device that every network namespace begins with.
const LOOPBACK: u32 = 1;

/// Gives loopback that address, and brings it up.
fn furnish() -> std::io::Result<()> {
    let (family, alone, host) = (2, 32, 254);
    let mut address = vec![family, alone, 0, host];
    address.extend(LOOPBACK.to_ne_bytes());
    // The address of the device, and of the other end, which is the same.
    for kind in [2_u16, 1] {
        address.extend(8_u16.to_ne_bytes());
        address.extend(kind.to_ne_bytes());
        address.extend(ADDRESS.octets());
    }
    let (up, any) = (1_u32, 0_u32);
    let link: Vec<u8> = [any, LOOPBACK, up, up].iter().flat_map(|field| field.to_ne_bytes()).collect();
    let (new_address, new_link) = (20, 16);
    ask(new_address, &address)?;
    ask(new_link, &link)
}

/// Has the kernel change something of the network, and waits for its word.
fn ask(what: u16, body: &[u8]) -> std::io::Result<()> {
    const HEADER_BYTES: usize = 16;
    // A request that is to be answered.
    let flags = 1_u16 | 4;
    let length = u32::try_from(HEADER_BYTES + body.len()).map_err(std::io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(what.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Number and sender are of no interest where there is one question at a time.
    message.extend([0; 8]);
    message.extend(body);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0_u8; 512];
    let (_, length) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let number = answer[..length].get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|bytes| bytes.try_into().ok());
    match number.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(number) => Err(std::io::Error::from_raw_os_error(-number)),
        None => Err(std::io::Error::other("an answer without a number")),
    }
}
