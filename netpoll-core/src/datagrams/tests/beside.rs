//! Datagrams beside others: other threads, other peers, callbacks that block, memory.

use super::*;

#[test]
fn a_callback_that_blocks_stops_no_other_socket_of_its_loop() {
    let manager = PollManager::new(1, LoadBalance::default()).expect("a loop");
    let dispatcher = Dispatcher::new(Dispatch::HandOff(HandOffOptions::default())).expect("a mode");
    let group = ConnectionGroup::served(Limits::default(), dispatcher).expect("a group");
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    let (tell, told) = mpsc::channel();
    let serve = |callbacks| {
        let socket =
            DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
        let address = socket.local_address().expect("an address").inet().expect("of UDP");
        let limits = DatagramLimits::default();
        serve_datagrams(socket, callbacks, limits, &group, &manager.pick(None)).expect("it serves");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect(address).expect("it is connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client
    };
    let open = |_: &DatagramHandle| Ok(());
    let slow =
        serve(DatagramCallbacks::new(open, move |session: &mut (), batch: &DatagramBatch<'_>| {
            let _ = tell.send(());
            let _ = wait.recv();
            echo(session, batch)
        }));
    let quick = serve(DatagramCallbacks::new(open, echo));
    slow.send(b"slow").expect("it is sent");
    told.recv_timeout(PATIENCE).expect("it has begun");
    for number in 0..20 {
        quick.send(&[number]).expect("it is sent");
        assert_eq!(receive(&quick), [number]);
    }
    drop(go);
    assert_eq!(receive(&slow), b"slow");
}

#[test]
fn other_threads_send_while_a_callback_blocks() {
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    let (tell, told) = mpsc::channel();
    let serving = Serving::new(
        Dispatch::HandOff(HandOffOptions::default()),
        DatagramLimits::default(),
        move |session: &mut (), batch: &DatagramBatch<'_>| {
            let _ = tell.send(());
            let _ = wait.recv();
            echo(session, batch)
        },
    );
    let client = serving.client();
    client.send(b"answered").expect("it is sent");
    told.recv_timeout(PATIENCE).expect("it has begun");
    let peer = Address::Inet(client.local_addr().expect("an address"));
    serving.handle.send_to(&peer, "first").expect("it is sent");
    assert_eq!(receive(&client), b"first");
    drop(go);
    assert_eq!(receive(&client), b"answered");
}

/// Eight senders, each with numbered datagrams and never more on the way than the receive buffer
/// has room for. None is lost, mixed up, or out of order, whatever the mode is.
#[test]
fn datagrams_of_many_senders_keep_their_order_and_their_bytes() {
    const EACH: u32 = if cfg!(debug_assertions) { 4000 } else { 125_000 };
    for mode in modes() {
        let serving = Serving::echo(mode);
        exchange_with_all(&serving, EACH, payload);
        let stats = serving.handle.stats();
        let all = u64::from(8 * EACH);
        assert_eq!((stats.received, stats.sent, stats.dropped_by_kernel), (all, all, 0));
        assert_eq!(serving.shut_down(), 0);
    }
}

/// As above, with payloads that are long, and answers that share the memory that they came to.
#[test]
fn long_answers_that_are_lent_keep_their_order_and_their_bytes() {
    const EACH: u32 = if cfg!(debug_assertions) { 300 } else { 10_000 };
    for mode in modes() {
        let lend = |(): &mut (), batch: &DatagramBatch<'_>| {
            batch.iter().try_for_each(|it| it.reply_bytes(it.bytes()))
        };
        let serving = Serving::new(mode, DatagramLimits::default(), lend);
        exchange_with_all(&serving, EACH, |sender, number| {
            let mut long = payload(sender, number);
            long.resize(4000 + long.len(), sender as u8);
            long
        });
        assert_eq!(serving.handle.stats().sent, u64::from(8 * EACH));
    }
}

/// Eight senders at once, each with so many payloads.
fn exchange_with_all(serving: &Serving, each: u32, payload: fn(u32, u32) -> Vec<u8>) {
    let senders: Vec<_> = (0..8_u32)
        .map(|sender| {
            let client = serving.client();
            std::thread::spawn(move || exchange(&client, sender, each, payload))
        })
        .collect();
    for sender in senders {
        sender.join().expect("all came back");
    }
}

fn exchange(client: &UdpSocket, sender: u32, each: u32, payload: fn(u32, u32) -> Vec<u8>) {
    // The receive buffer has room for as many of all eight.
    let on_the_way = if payload(0, 0).len() > 1000 { 2 } else { 8 };
    let (mut sent, mut back) = (0, 0);
    let mut into = [0; 8192];
    while back < each {
        while sent < each && sent - back < on_the_way {
            client.send(&payload(sender, sent)).expect("it is sent");
            sent += 1;
        }
        let n = client.recv(&mut into).expect("it comes back");
        assert!(into[..n] == payload(sender, back), "sender {sender}, datagram {back}");
        back += 1;
    }
}

/// Of a size and with bytes that follow from the sender and the number.
fn payload(sender: u32, number: u32) -> Vec<u8> {
    let size = 8 + (number.wrapping_mul(31) ^ sender) as usize % 5 * 100;
    let mut payload = vec![(number ^ sender) as u8; size];
    payload[..4].copy_from_slice(&sender.to_ne_bytes());
    payload[4..8].copy_from_slice(&number.to_ne_bytes());
    payload
}

#[test]
fn slices_that_are_kept_stop_their_own_socket_until_they_go() {
    let (tell, told) = mpsc::channel();
    let socket = DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
    let limits = Limits { input_limit: 64 << 10, held_limit: Some(256 << 10), ..Limits::default() };
    let serving = Serving::within(
        socket,
        Dispatch::Inline,
        DatagramLimits { places: 1, ..DatagramLimits::default() },
        limits,
        move |(): &mut (), batch: &DatagramBatch<'_>| {
            for datagram in batch {
                let _ = tell.send(datagram.bytes());
            }
            Ok(())
        },
    );
    let client = serving.client();
    let mut kept = Vec::new();
    for number in 0..4_u8 {
        client.send(&[number; 2000]).expect("it is sent");
        kept.push(told.recv_timeout(PATIENCE).expect("it came"));
    }
    client.send(&[4; 2000]).expect("it is sent");
    until("it is put off", || serving.group.memory().pauses > 0);
    assert_eq!(serving.handle.stats().received, 4);
    kept.clear();
    assert_eq!(told.recv_timeout(PATIENCE).expect("it goes on")[..], [4; 2000]);
}

#[test]
fn a_callback_may_close_its_socket_and_drop_all_that_it_has() {
    let serving = Serving::new(
        Dispatch::Inline,
        DatagramLimits::default(),
        |(): &mut (), batch: &DatagramBatch<'_>| {
            let handle = batch.handle();
            handle.close();
            handle.close();
            drop(handle);
            batch.iter().next().map_or(Ok(()), |datagram| datagram.reply(b"the last"))
        },
    );
    let client = serving.client();
    client.send(b"x").expect("it is sent");
    assert_eq!(receive(&client), b"the last");
    assert_eq!(serving.group.wait_empty(clock::now() + PATIENCE), 0);
}

#[test]
fn lent_memory_with_a_drop_that_panics_ends_nothing() {
    struct Lent;
    impl AsRef<[u8]> for Lent {
        fn as_ref(&self) -> &[u8] {
            b"lent"
        }
    }
    impl Drop for Lent {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }
    let serving = Serving::new(
        Dispatch::Inline,
        DatagramLimits::default(),
        |(): &mut (), batch: &DatagramBatch<'_>| {
            for datagram in batch {
                datagram.reply_bytes(bytes::Bytes::from_owner(Lent))?;
            }
            Ok(())
        },
    );
    let client = serving.client();
    for _ in 0..3 {
        client.send(b"x").expect("it is sent");
        assert_eq!(receive(&client), b"lent");
    }
}

#[test]
fn answers_of_any_length_and_kind_keep_their_order() {
    let serving = Serving::new(
        Dispatch::Inline,
        DatagramLimits::default(),
        |(): &mut (), batch: &DatagramBatch<'_>| {
            for datagram in batch {
                datagram.reply(b"copied")?;
                datagram.reply_bytes(vec![1; 5000].into())?;
                datagram.reply(b"copied")?;
                datagram.reply_bytes("short".into())?;
                datagram.reply(b"")?;
                datagram.reply(datagram.payload())?;
                batch.send_to(datagram.peer(), b"by name")?;
            }
            Ok(())
        },
    );
    let client = serving.client();
    for _ in 0..10 {
        client.send(b"payload").expect("it is sent");
    }
    for _ in 0..10 {
        let long = vec![1; 5000];
        for expected in [&b"copied"[..], &long, b"copied", b"short", b"", b"payload", b"by name"] {
            assert_eq!(receive(&client), expected);
        }
    }
}

#[test]
fn more_answers_than_are_gathered_leave_before_the_callback_returns() {
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    let serving = Serving::new(
        Dispatch::HandOff(HandOffOptions::default()),
        DatagramLimits::default(),
        move |(): &mut (), batch: &DatagramBatch<'_>| {
            for datagram in batch {
                for number in 0..140_u32 {
                    // Each longer than the last, so that none are joined.
                    datagram.reply(&vec![7; 10 + number as usize])?;
                }
            }
            let _ = wait.recv();
            Ok(())
        },
    );
    let client = serving.client();
    client.send(b"x").expect("it is sent");
    for number in 0..128 {
        assert_eq!(receive(&client).len(), 10 + number);
    }
    drop(go);
    for number in 128..140 {
        assert_eq!(receive(&client).len(), 10 + number);
    }
}

/// A service each of whose wakes causes the next.
struct Restless(DatagramHandle);

impl DatagramService for Restless {
    fn received(&mut self, batch: &DatagramBatch<'_>) -> Result<()> {
        echo(&mut (), batch)
    }

    fn woken(&mut self, _: &DatagramBatch<'_>) -> Result<()> {
        self.0.wake();
        Ok(())
    }
}

struct OpensRestless;

impl PrepareDatagrams for OpensRestless {
    fn open(self: Arc<Self>, handle: &DatagramHandle) -> Result<Box<dyn DatagramService>> {
        handle.wake();
        Ok(Box::new(Restless(handle.clone())))
    }
}

#[test]
fn a_callback_that_wakes_itself_each_time_keeps_no_datagram_and_no_shutdown_waiting() {
    for mode in modes() {
        let mut serving = Serving::echo(mode);
        let socket =
            DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
        let (limits, reactor) = (DatagramLimits::default(), serving.manager.pick(None));
        let (callbacks, group) = (Arc::new(OpensRestless), &serving.group);
        let handle = serve_datagrams(socket, callbacks, limits, group, &reactor);
        let local = handle.expect("it serves").local_addr().expect("an address");
        serving.address = local.inet().expect("that of UDP");
        let client = serving.client();
        for _ in 0..100 {
            client.send(b"x").expect("it is sent");
            assert_eq!(receive(&client), b"x");
        }
        assert_eq!(serving.shut_down(), 0);
    }
}

/// A socket has room again after each datagram that has left it. Were it watched for that, the loop
/// would be woken once for each answer, beside once for each question.
#[test]
fn a_datagram_that_has_left_wakes_no_loop() {
    const QUESTIONS: u64 = 100;
    let serving = Serving::echo(Dispatch::Inline);
    let client = serving.client();
    let ask = || {
        client.send(b"?").expect("it is sent");
        assert_eq!(receive(&client), b"?");
    };
    ask(); // so that the loop has begun
    let turns = || serving.manager.stats()[0].turns;
    let before = turns();
    (0..QUESTIONS).for_each(|_| ask());
    let turns = turns() - before;
    assert!(turns < QUESTIONS + QUESTIONS / 4, "{turns} turns");
}
