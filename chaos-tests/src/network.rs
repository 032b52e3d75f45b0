//! The network between the programs of a cluster, with a hand on every wire.
//!
//! Each node is known to all others by the address of a proxy in this process. The proxy finds out which program made a
//! connection (the kernel says which process holds the other end), so every direction between two programs is a link of
//! its own that can be cut or made lossy. A cut link holds bytes back, as a network that drops packets does: neither
//! side is told, connections hang, and what was on its way arrives when the link is whole again, unless somebody gave
//! up before. Loss shows to TCP's users as delay, so a lossy link delays: a little always, and long where a packet
//! would have been sent again.
//!
//! This needs no privilege and no tool of the system, and the same seed cuts the same links everywhere.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// Bytes that travel as one packet here.
const PACKET_BYTES: usize = 16 << 10;
/// What a lost packet costs: TCP's least retransmission timeout and some.
const RETRANSMISSION: Duration = Duration::from_millis(250);

/// A program of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A storage node.
    Node(u8),
    /// A router.
    Router(u8),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Node(at) => write!(f, "node {at}"),
            Party::Router(at) => write!(f, "router {at}"),
        }
    }
}

/// One direction between two parties.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Link {
    /// Nothing passes.
    Cut,
    /// Every packet is late, and `loss` (0 to 1) of them are sent again.
    Lossy {
        /// Share of packets that get lost.
        loss: f64,
        /// How late every packet is.
        delay: Duration,
    },
}

/// All links and the proxies that they run through.
pub struct Network {
    shared: Arc<Shared>,
    doors: BTreeMap<u8, JoinHandle<()>>,
}

struct Shared {
    /// Links that are not whole.
    links: Mutex<BTreeMap<(Party, Party), Link>>,
    /// Counts changes of `links`.
    changed: watch::Sender<u64>,
    /// Which process is which party now.
    processes: Mutex<BTreeMap<Party, u32>>,
}

impl Default for Network {
    fn default() -> Self {
        let shared = Shared { links: Mutex::default(), changed: watch::channel(0).0, processes: Mutex::default() };
        Network { shared: Arc::new(shared), doors: BTreeMap::new() }
    }
}

impl Network {
    /// Says which process a party is now.
    pub fn register(&self, party: Party, process: u32) {
        self.shared.processes.lock().insert(party, process);
    }

    /// Listens at `proxy` for the node `at`, which itself listens at `node`.
    pub fn open_door(&mut self, at: u8, proxy: SocketAddr, node: SocketAddr) {
        let listener = std::net::TcpListener::bind(proxy).unwrap_or_else(|error| panic!("proxy at {proxy}: {error}"));
        listener.set_nonblocking(true).expect("a socket that does not block");
        let listener = TcpListener::from_std(listener).expect("a listener");
        let door = tokio::spawn(serve(self.shared.clone(), listener, Party::Node(at), node));
        self.doors.insert(at, door);
    }

    /// Refuses connections to a node that does not run, as its machine would.
    pub async fn close_door(&mut self, at: u8) {
        if let Some(door) = self.doors.remove(&at) {
            door.abort();
            // The port is free once the task is gone.
            let _ = door.await;
        }
    }

    /// Sets one direction of a link.
    pub fn set(&self, from: Party, to: Party, link: Link) {
        self.shared.links.lock().insert((from, to), link);
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Makes all links whole.
    pub fn heal(&self) {
        self.shared.links.lock().clear();
        self.shared.changed.send_modify(|count| *count += 1);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for door in self.doors.values() {
            door.abort();
        }
    }
}

impl Shared {
    /// Waits while the link is cut; returns how long a packet takes now.
    async fn pass(&self, from: Party, to: Party) -> Duration {
        let mut changed = self.changed.subscribe();
        loop {
            let link = self.links.lock().get(&(from, to)).copied();
            match link {
                None => return Duration::ZERO,
                Some(Link::Lossy { loss, delay }) => {
                    let lost = rand::random_bool(loss);
                    return delay + if lost { RETRANSMISSION } else { Duration::ZERO };
                }
                Some(Link::Cut) => {}
            }
            if changed.changed().await.is_err() {
                return Duration::ZERO;
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener, to: Party, node: SocketAddr) {
    while let Ok((client, from)) = listener.accept().await {
        tokio::spawn(connection(shared.clone(), client, from, to, node));
    }
}

/// Carries one connection; ends when either side does.
async fn connection(shared: Arc<Shared>, client: TcpStream, from: SocketAddr, to: Party, node: SocketAddr) {
    let processes = shared.processes.lock().clone();
    let found = tokio::task::spawn_blocking(move || holder(from, &processes)).await;
    // Its maker is gone already.
    let Ok(Some(from)) = found else { return };
    let Ok(server) = TcpStream::connect(node).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    tokio::select! {
        () = carry(&shared, (from, to), client_reads, server_writes) => {}
        () = carry(&shared, (to, from), server_reads, client_writes) => {}
    }
}

async fn carry(shared: &Shared, (from, to): (Party, Party), mut source: OwnedReadHalf, mut sink: OwnedWriteHalf) {
    let mut packet = vec![0; PACKET_BYTES];
    while let Ok(length @ 1..) = source.read(&mut packet).await {
        let late = shared.pass(from, to).await;
        if !late.is_zero() {
            tokio::time::sleep(late).await;
        }
        if sink.write_all(&packet[..length]).await.is_err() {
            return;
        }
    }
    // The end of a stream is a packet too.
    shared.pass(from, to).await;
}

/// Which of our processes holds the connection that comes from `address`.
fn holder(address: SocketAddr, processes: &BTreeMap<Party, u32>) -> Option<Party> {
    let SocketAddr::V4(address) = address else { return None };
    let socket = format!("socket:[{}]", inode(&fs::read_to_string("/proc/net/tcp").ok()?, address)?);
    let holds = |process: u32| {
        let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target.as_os_str() == &*socket)
    };
    processes.iter().find(|&(_, &process)| holds(process)).map(|(&party, _)| party)
}

/// The inode of the socket bound to `local`, in the kernel's table of TCP sockets.
fn inode(table: &str, local: SocketAddrV4) -> Option<&str> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let found = parse_address(fields.nth(1)?)? == local;
        // After the local address: remote address, state, queues, timer, retransmits, user, timeout.
        let inode = fields.nth(7)?;
        (found && inode != "0").then_some(inode)
    })
}

/// `0100007F:1F90`: address in host order of a little-endian machine, port, both in hex.
fn parse_address(text: &str) -> Option<SocketAddrV4> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(address.to_ne_bytes()), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: u8 = 7;

    /// A network with this test as router 0, and a node that sends back what it gets.
    async fn echo() -> (Network, SocketAddr) {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node_address = node.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = node.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut network = Network::default();
        network.register(Party::Router(0), std::process::id());
        network.open_door(PROXY, free, node_address);
        (network, free)
    }

    async fn answered(stream: &mut TcpStream) -> bool {
        stream.write_all(b"x").await.unwrap();
        tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await.is_ok()
    }

    #[tokio::test]
    async fn each_direction_is_cut_and_healed_by_itself() {
        let (network, address) = echo().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(answered(&mut stream).await);
        let (router, node) = (Party::Router(0), Party::Node(PROXY));
        for (from, to) in [(router, node), (node, router)] {
            network.set(from, to, Link::Cut);
            assert!(!answered(&mut stream).await, "{from} to {to} is cut");
            network.heal();
            stream.read_u8().await.expect("what was held back arrives");
        }
        network.set(Party::Router(1), node, Link::Cut);
        assert!(answered(&mut stream).await, "another's link is another's");
    }

    #[tokio::test]
    async fn a_closed_door_refuses_and_can_be_opened_again() {
        let (mut network, address) = echo().await;
        let node = TcpStream::connect(address).await.unwrap().peer_addr().unwrap();
        network.close_door(PROXY).await;
        assert!(TcpStream::connect(address).await.is_err());
        network.open_door(PROXY, address, node);
        assert!(TcpStream::connect(address).await.is_ok());
    }

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21 1 0 100\n   \
             1: 0201637F:A001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 42 1 0 100\n";
        assert_eq!(inode(table, "127.99.1.2:40961".parse().unwrap()), Some("42"));
        assert_eq!(inode(table, "127.99.1.2:1".parse().unwrap()), None);
    }
}
