//! A queue from each shard to each other: how the shards of a pool talk without locks.
//!
//! Bounded queues in a circle deadlock when everybody sends and nobody receives. Here that cannot be written by accident: a [`MeshEnd`] that
//! waits for room takes in meanwhile what the others send, into memory of its own, so that they go on. Whoever wants that memory bounded
//! calls [`MeshEnd::split`], and then has to receive in another task than it sends in.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use crate::channel::{Receiver, SendError, Sender, channel};

/// The ends of a mesh that are still to be given out: each shard takes its own, on its thread. Clones are the same mesh.
///
/// An end that nobody has taken stays open, and holds up who sends to it: take it first of all in a shard. Those that are left are closed
/// when the last clone is dropped.
///
/// ```
/// use ublk_executor::executor::PoolBuilder;
/// use ublk_executor::mesh::Mesh;
///
/// let mesh = Mesh::new(3, 8);
/// let pool = PoolBuilder::default().shards(3).start(move |shard| {
///     let mut end = mesh.take(shard.index).unwrap();
///     async move {
///         for peer in (0..3).filter(|&peer| peer != shard.index) {
///             end.send(peer, shard.index * 10).await.unwrap();
///         }
///         let (senders, mut receiver) = end.split();
///         drop(senders);
///         let mut sum = 0;
///         while let Some((_from, number)) = receiver.recv().await {
///             sum += number;
///         }
///         sum
///     }
/// })?;
/// let sums: Vec<usize> = pool.join().into_iter().map(Result::unwrap).collect();
/// assert_eq!(sums, [30, 20, 10]);
/// # Ok::<(), ublk_executor::executor::PoolError>(())
/// ```
pub struct Mesh<T> {
    ends: Arc<Mutex<Vec<Option<MeshEnd<T>>>>>,
}

impl<T> Mesh<T> {
    /// Makes the queues between `shards` shards: one for each pair and direction, for `capacity` items each.
    ///
    /// # Panics
    /// As [`channel`]: `capacity` is 0, or more than memory can address.
    pub fn new(shards: usize, capacity: usize) -> Mesh<T> {
        let mut senders: Vec<Vec<_>> = (0..shards).map(|_| Vec::with_capacity(shards)).collect();
        let mut receivers: Vec<Vec<_>> = (0..shards).map(|_| Vec::with_capacity(shards)).collect();
        for (from, senders) in senders.iter_mut().enumerate() {
            for (to, receivers) in receivers.iter_mut().enumerate() {
                let (sender, receiver) = (from != to).then(|| channel(capacity)).unzip();
                senders.push(sender);
                receivers.push(receiver);
            }
        }
        let end = |(senders, peers)| {
            let receiver = MeshReceiver { peers, first: 0, taken_in: VecDeque::new() };
            Some(MeshEnd { receiver, senders: MeshSenders { peers: senders } })
        };
        Mesh { ends: Arc::new(Mutex::new(senders.into_iter().zip(receivers).map(end).collect())) }
    }

    /// The end of shard `index`. None: it was taken, or the mesh has no such shard.
    pub fn take(&self, index: usize) -> Option<MeshEnd<T>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index)?.take()
    }
}

impl<T> Clone for Mesh<T> {
    fn clone(&self) -> Mesh<T> {
        Mesh { ends: Arc::clone(&self.ends) }
    }
}

/// What one shard has of a mesh. Dropping it closes the queues from and to it: the others still get what it sent.
#[derive(Debug)]
pub struct MeshEnd<T> {
    // The order matters: whoever is told that nothing more comes must not be able to send any more.
    receiver: MeshReceiver<T>,
    senders: MeshSenders<T>,
}

assert_not_impl!(MeshEnd<u64>, Sync);
assert_not_impl!(MeshEnd<u64>, Clone);

impl<T> MeshEnd<T> {
    /// Sends to the shard `to`. While its queue is full, what the others send is taken in, for [`MeshEnd::recv`] to give: that memory is
    /// bounded by what they send, not by the capacity.
    ///
    /// Cancel-safe, but the item goes with the future. What was taken in stays.
    ///
    /// # Errors
    /// The item, when that shard's end is gone.
    ///
    /// # Panics
    /// When `to` is this shard, or none of the mesh.
    pub async fn send(&mut self, to: usize, item: T) -> Result<(), SendError<T>> {
        let mut unsent = Some(item);
        poll_fn(|context| {
            let sent = self.senders.to(to).poll_send(context, &mut unsent);
            if sent.is_pending() && self.receiver.take_in(context) {
                context.waker().wake_by_ref(); // there may be more, but others have their turn first
            }
            sent
        })
        .await
    }

    /// As [`MeshReceiver::recv`].
    pub async fn recv(&mut self) -> Option<(usize, T)> {
        self.receiver.recv().await
    }

    /// Both directions, for two tasks. The senders alone take nothing in: a task that sends and receives in turns may then wait for another
    /// shard that waits for it. Receive in a task of its own.
    pub fn split(self) -> (MeshSenders<T>, MeshReceiver<T>) {
        (self.senders, self.receiver)
    }
}

/// The queues from one shard to all others. Dropping it closes them.
pub struct MeshSenders<T> {
    /// By shard; none to itself.
    peers: Vec<Option<Sender<T>>>,
}

impl<T> MeshSenders<T> {
    /// Sends to the shard `to`, and waits while its queue is full. Cancel-safe, but the item goes with the future.
    ///
    /// # Errors
    /// The item, when that shard's end is gone.
    ///
    /// # Panics
    /// When `to` is this shard, or none of the mesh.
    pub async fn send(&mut self, to: usize, item: T) -> Result<(), SendError<T>> {
        self.to(to).send(item).await
    }

    fn to(&mut self, to: usize) -> &mut Sender<T> {
        let shards = self.peers.len();
        let peer = self.peers.get_mut(to).and_then(Option::as_mut);
        peer.unwrap_or_else(|| panic!("shard {to} of {shards} is not another shard of the mesh"))
    }
}

/// The queues from all other shards to one. Dropping it closes them.
pub struct MeshReceiver<T> {
    /// By shard; none from itself, and from those that are gone.
    peers: Vec<Option<Receiver<T>>>,
    /// Whose turn it is.
    first: usize,
    /// What came while this shard waited for room elsewhere, with its sender.
    taken_in: VecDeque<(usize, T)>,
}

impl<T> MeshReceiver<T> {
    /// The next item and the number of its sender; waits for it. Items of one sender come in their order, and all senders get their turn.
    /// None: all other ends are gone, and everything they sent was received. Cancel-safe: nothing is lost.
    pub async fn recv(&mut self) -> Option<(usize, T)> {
        poll_fn(|context| match self.taken_in.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None => self.poll_peers(context),
        })
        .await
    }

    fn poll_peers(&mut self, context: &Context<'_>) -> Poll<Option<(usize, T)>> {
        let mut is_open = false;
        let shards = self.peers.len();
        for from in (self.first..shards).chain(0..self.first) {
            let Some(peer) = &mut self.peers[from] else { continue };
            match peer.poll_recv(context) {
                Poll::Ready(Some(item)) => {
                    self.first = (from + 1) % shards;
                    return Poll::Ready(Some((from, item)));
                }
                Poll::Ready(None) => self.peers[from] = None,
                Poll::Pending => is_open = true,
            }
        }
        if is_open { Poll::Pending } else { Poll::Ready(None) }
    }

    /// Takes in one item of each peer. False: nothing was there, and the context is woken when something comes.
    fn take_in(&mut self, context: &Context<'_>) -> bool {
        let before = self.taken_in.len();
        for _ in 0..self.peers.len() {
            match self.poll_peers(context) {
                Poll::Ready(Some(item)) => self.taken_in.push_back(item),
                _ => break,
            }
        }
        self.taken_in.len() > before
    }
}

impl<T> fmt::Debug for Mesh<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Mesh")
    }
}

impl<T> fmt::Debug for MeshSenders<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MeshSenders").field("shards", &self.peers.len()).finish()
    }
}

impl<T> fmt::Debug for MeshReceiver<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.peers.iter().flatten().count();
        formatter.debug_struct("MeshReceiver").field("open", &open).field("taken_in", &self.taken_in.len()).finish()
    }
}
