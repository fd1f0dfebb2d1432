//! What Rust programs do with the standard library: threads, channels, files, sockets, processes, time. Says `lives`.
//! Where ONCE is set, executing another program has to fail.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, process, thread};

fn main() {
    if env::args().len() > 1 {
        println!("from the child");
        process::exit(7);
    }
    let total = Arc::new((Mutex::new(0), Condvar::new()));
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let total = Arc::clone(&total);
            let work = move || {
                *total.0.lock().unwrap() += number;
                total.1.notify_all();
            };
            thread::Builder::new().name(format!("worker-{number}")).spawn(work).unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(*total.0.lock().unwrap(), 28);
    let (sender, receiver) = mpsc::channel::<u8>();
    assert!(receiver.recv_timeout(Duration::from_millis(1)).is_err());
    drop(sender);
    // A panic in a thread unwinds and is caught.
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    assert!(thread::spawn(|| panic!("on purpose")).join().is_err());
    std::panic::set_hook(silent);

    fs::create_dir("rust").unwrap();
    fs::write("rust/file", "content").unwrap();
    fs::copy("rust/file", "rust/copy").unwrap();
    fs::rename("rust/copy", "rust/renamed").unwrap();
    assert_eq!(fs::read_to_string("rust/renamed").unwrap(), "content");
    assert_eq!(fs::read_dir("rust").unwrap().count(), 2);
    fs::remove_dir_all("rust").unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    server.write_all(b"hello").unwrap();
    drop(server);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    UdpSocket::bind("127.0.0.1:0").unwrap();
    UnixStream::pair().unwrap();

    // With a thread around, the standard library prefers clone3 and pidfds.
    let child = process::Command::new(env::current_exe().unwrap()).arg("child").output();
    if env::var_os("ONCE").is_some() {
        assert_eq!(child.unwrap_err().raw_os_error(), Some(38));
    } else {
        let child = child.unwrap();
        assert_eq!((child.status.code(), child.stdout.as_slice()), (Some(7), &b"from the child\n"[..]));
    }
    assert!(thread::available_parallelism().is_ok());
    assert!(SystemTime::now() > SystemTime::UNIX_EPOCH && Instant::now().elapsed() < Duration::from_secs(60));
    println!("lives");
}
