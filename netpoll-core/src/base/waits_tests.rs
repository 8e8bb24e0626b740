//! Which waits end, and that a wait which is ended does not sleep on (loom).

use super::*;

#[cfg(not(loom))]
mod rules {
    use super::*;

    const NOW: Duration = Duration::from_secs(10);

    fn list(waits: &Waits, of: WaitsFor, age: Duration) -> u64 {
        let key = waits.begin(of, None);
        let mut list = lock(&waits.list);
        let listed = list.waits.get_mut(&key).expect("it was just listed");
        listed.since -= age;
        key
    }

    fn over(waits: &Waits) -> Vec<u64> {
        let list = lock(&waits.list);
        list.waits.iter().filter(|(_, each)| each.is_over).map(|(key, _)| *key).collect()
    }

    #[test]
    fn waits_without_progress_for_longest_end_and_no_more_than_are_needed() {
        let waits = Waits::new();
        let ages = [3, 1, 4, 2].map(Duration::from_secs);
        let keys = ages.map(|age| list(&waits, WaitsFor::Peer, age));
        waits.end_longest(2, 2, 4);
        assert_eq!(over(&waits), [keys[0], keys[2]]);
        waits.end_longest(1, 1, 4);
        assert_eq!(over(&waits), [keys[0], keys[2], keys[3]]);
        assert_eq!(waits.ended(), 3);
    }

    #[test]
    fn a_wait_that_has_just_begun_or_moved_on_goes_on() {
        let waits = Waits::new();
        list(&waits, WaitsFor::Peer, Duration::ZERO);
        let moved = Waiting { listed: Some((waits.clone(), list(&waits, WaitsFor::Peer, NOW))) };
        moved.progressed();
        waits.end_longest(9, 0, 1);
        assert_eq!(waits.ended(), 0);
    }

    #[test]
    fn peers_have_less_time_where_more_wait_and_what_we_dialled_has_not() {
        assert_eq!(patience(0, 256), PEER);
        assert_eq!(patience(256, 256), PEER / 2);
        assert!(patience(100_000, 256) < Duration::from_millis(1));
        let waits = Waits::new();
        let peer = list(&waits, WaitsFor::Peer, PEER / 2);
        list(&waits, WaitsFor::Elsewhere, ELSEWHERE / 2);
        waits.end_longest(2, 0, 1);
        assert_eq!(over(&waits), []);
        waits.end_longest(2, 1, 1);
        assert_eq!(over(&waits), [peer]);
        let elsewhere = list(&waits, WaitsFor::Elsewhere, ELSEWHERE);
        waits.end_longest(2, 0, 1);
        assert_eq!(over(&waits), [peer, elsewhere]);
    }

    #[test]
    fn callbacks_that_want_a_thread_are_added_up() {
        let waits = Waits::new();
        for _ in 0..3 {
            list(&waits, WaitsFor::Peer, NOW);
        }
        waits.want_one();
        assert_eq!(waits.ended(), 1);
        waits.want_one();
        assert_eq!(lock(&waits.list).wanted, 1, "it is too early for the second");
        lock(&waits.list).served = None;
        waits.want_one();
        assert_eq!(waits.ended(), 3);
    }

    #[test]
    fn waits_are_listed_on_the_threads_of_callbacks_alone() {
        assert!(!Waiting::begin(WaitsFor::Peer, None).is_listed());
        let waits = Waits::new();
        let listing = Listing::at(Some(&waits));
        let waiting = Waiting::begin(WaitsFor::Peer, None);
        assert!(waiting.is_listed() && !waiting.is_over());
        drop((waiting, listing));
        assert!(lock(&waits.list).waits.is_empty());
        assert!(!Waiting::begin(WaitsFor::Peer, None).is_listed());
    }
}

#[cfg(loom)]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::pure::task::{Events, Task};

    struct Model {
        task: Task<()>,
        waits: Arc<Waits>,
    }

    impl Wake for Model {
        fn wake(&self) {
            self.task.word.nudge();
        }
    }

    /// A read is ended while its bytes come, or before it sleeps: it returns, and is not listed any
    /// more. A read that slept on would be a deadlock.
    #[test]
    fn loom_a_wait_that_is_ended_returns() {
        for bytes in [false, true] {
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = builder.preemption_bound.or(Some(3));
            builder.check(move || {
                let model = Arc::new(Model { task: Task::new(()), waits: Waits::new() });
                let _word = model.task.begin().expect("it was scheduled").keep();
                let key = model.waits.begin(WaitsFor::Peer, Some(model.clone()));
                let waiting = Waiting { listed: Some((model.waits.clone(), key)) };
                let ender = {
                    let model = model.clone();
                    thread::spawn(move || {
                        let later = Instant::now() + ELSEWHERE;
                        let ended = lock(&model.waits.list).end_longest(1, PEER, later);
                        model.waits.wake(ended);
                    })
                };
                let sender = bytes.then(|| {
                    let model = model.clone();
                    thread::spawn(move || model.task.word.notify(Events::READABLE))
                });
                let events = model.task.word.wait(Events::READABLE, || waiting.deadline());
                assert!(events != Events::NONE || waiting.is_over());
                drop(waiting);
                ender.join().expect("the model's thread");
                if let Some(sender) = sender {
                    sender.join().expect("the model's thread");
                }
                assert!(lock(&model.waits.list).waits.is_empty());
            });
        }
    }
}
