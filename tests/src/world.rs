//! What a hostile plugin may know of the host: files, sockets and numbers that are there to be reached, and must not be.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::command::{built, command};

/// Outside of /tmp, which a plugin has one of its own of: what lies there would be told apart by its name alone.
const GROUND: &str = "/var/tmp";

/// Targets. All of them are open to everybody, so that what keeps somebody out is never their owner.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    tcp4: TcpListener,
    tcp6: Option<TcpListener>,
    udp: Answering,
    elsewhere: Option<TcpListener>,
    holder: Holder,
    abstract_name: String,
    _sockets: [UnixListener; 3],
}

impl World {
    /// # Panics
    /// When the host has no room for them.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("palisade-world-").tempdir_in(GROUND).expect("there is room");
        let open_to_all = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        open_to_all(folder.path(), 0o755);
        for (name, mode) in [("secret", 0o644), ("writable", 0o666), ("sibling", 0o644)] {
            let path = folder.path().join(name);
            fs::write(&path, "nobody is to read this").expect("there is room");
            open_to_all(&path, mode);
        }
        let socket = |name: &str, mode| {
            let path = folder.path().join(name);
            let listener = UnixListener::bind(&path).expect("there is room");
            open_to_all(&path, mode);
            listener
        };
        let abstract_name = format!("palisade-{}", folder.path().display());
        let address = SocketAddr::from_abstract_name(&abstract_name).expect("a short name");
        let sockets =
            [socket("socket", 0o777), socket("control", 0o600), UnixListener::bind_addr(&address).expect("it is free")];
        Self {
            tcp4: TcpListener::bind("127.0.0.1:0").expect("loopback is there"),
            tcp6: TcpListener::bind("[::1]:0").ok(),
            udp: Answering::new(),
            elsewhere: TcpListener::bind((crate::network::ADDRESS, 0)).ok(),
            holder: Holder::start(),
            abstract_name,
            _sockets: sockets,
            folder,
        }
    }

    /// What an attempt is told. `first` is the process that it looks into as pid 1.
    ///
    /// # Panics
    /// Never: the sockets are bound.
    #[must_use]
    pub fn told(&self, package: &Path, data: &Path, supervisor: u32, first: u32) -> Value {
        let path = |name: &str| self.path(name);
        let bound = |address: std::io::Result<std::net::SocketAddr>| address.expect("it is bound").to_string();
        json!({
            "package": package,
            "data": data,
            "supervisor": supervisor,
            "first": first,
            "secret": path("secret"),
            "writable": path("writable"),
            "sibling": path("sibling"),
            "socket": path("socket"),
            "control": path("control"),
            "abstract": self.abstract_name,
            "tcp4": bound(self.tcp4.local_addr()),
            "tcp6": self.tcp6.as_ref().map_or("[::1]:9".into(), |listener| bound(listener.local_addr())),
            "tcp_elsewhere": self.elsewhere.as_ref().map_or("192.0.2.1:443".into(), |listener| bound(listener.local_addr())),
            "key": self.holder.key,
            "keyring": self.holder.ring,
            "udp": self.udp.address.to_string(),
        })
    }

    /// Whether this is a network namespace of [`crate::network`], so that somebody listens at an address that is not loopback's.
    #[must_use]
    pub fn has_another_address(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// Whether there is somebody whose keys could be read.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.holder.key != 0
    }

    /// How many datagrams have arrived at the socket that answers them.
    #[must_use]
    pub fn datagrams(&self) -> u32 {
        self.udp.arrived.load(Ordering::Relaxed)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Somebody else with a key of theirs. It goes with the process.
#[derive(Debug)]
struct Holder {
    process: Child,
    key: i64,
    ring: i64,
}

impl Holder {
    fn start() -> Self {
        let mut holder = command(built("palisade-hostile"));
        holder.arg("hold-key").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = holder.spawn().expect("it was built");
        let mut line = String::new();
        let said = process.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        said.expect("it has one").expect("it can be read");
        // Where the kernel has no keys, or none for us, it says nothing.
        let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
        let (key, ring) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Self { process, key, ring }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// A datagram socket of the host that answers whoever reaches it.
#[derive(Debug)]
struct Answering {
    address: std::net::SocketAddr,
    arrived: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Answering {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        // So often it looks whether it is over.
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("it is a time");
        let address = socket.local_addr().expect("it is bound");
        let (arrived, over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let task = std::thread::spawn({
            let (arrived, over) = (arrived.clone(), over.clone());
            move || {
                while !over.load(Ordering::Relaxed) {
                    if let Ok((_, sender)) = socket.recv_from(&mut [0; 16]) {
                        arrived.fetch_add(1, Ordering::Relaxed);
                        // Who is gone needs none.
                        let _ = socket.send_to(b"y", sender);
                    }
                }
            }
        });
        Self { address, arrived, over, task: Some(task) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            let _ = task.join();
        }
    }
}
