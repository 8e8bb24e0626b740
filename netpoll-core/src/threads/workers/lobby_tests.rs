//! The lobby: nobody is called in vain, and no job is left lying (loom).

use std::collections::VecDeque;

use super::*;
use crate::base::sync::{Mutex, lock};

#[cfg(not(loom))]
#[test]
fn one_worker_is_called_for_many_jobs() {
    let lobby = Lobby::new();
    let mut seats: Vec<_> = (0..3).map(|_| lobby.enter()).collect();
    assert_eq!(lobby.idle(), 3);
    for seat in &mut seats {
        lobby.found(seat);
        lobby.berths.park(&seat.berth);
    }
    for _ in 0..5 {
        lobby.call(|| true);
        assert_eq!((lobby.berths.parked(), lobby.idle()), (2, 3));
    }
    // It has found one of the five: the next is called.
    let mut called = seats.pop().expect("the last who parked");
    assert!(lobby.berths.wait(&called.berth, None).is_some());
    called.searches = true;
    lobby.found(&mut called);
    lobby.call(|| true);
    assert_eq!((lobby.berths.parked(), lobby.idle()), (1, 2));
}

/// What the workers' queue is, for a model.
#[derive(Default)]
struct Jobs(Mutex<VecDeque<u32>>);

impl Jobs {
    fn push(&self, job: u32) {
        lock(&self.0).push_back(job);
    }

    fn take(&self) -> Option<u32> {
        lock(&self.0).pop_front()
    }

    fn wait(&self) -> bool {
        !lock(&self.0).is_empty()
    }
}

/// A worker's life: what the workers do between two callbacks.
#[cfg(not(loom))]
fn work(lobby: &Lobby, jobs: &Jobs, mut seat: Seat) -> u32 {
    let mut done = 0;
    loop {
        if let Some(job) = jobs.take() {
            lobby.found(&mut seat);
            lobby.call(|| jobs.wait());
            done += job;
        } else if !lobby.wait(&mut seat, None, || jobs.wait()) {
            return done;
        }
    }
}

#[cfg(not(loom))]
#[test]
fn all_jobs_are_done_by_whoever_is_there() {
    for _ in 0..200 {
        let (lobby, jobs) = (Lobby::new(), Jobs::default());
        let done: u32 = std::thread::scope(|scope| {
            let seats = [lobby.enter(), lobby.enter(), lobby.enter()];
            let workers = seats.map(|seat| scope.spawn(|| work(&lobby, &jobs, seat)));
            for job in 1..=100 {
                jobs.push(job);
                lobby.call(|| jobs.wait());
            }
            while jobs.wait() {
                std::thread::yield_now();
            }
            lobby.close();
            workers.map(|worker| worker.join().expect("it returns")).iter().sum()
        });
        assert_eq!(done, 5050);
    }
}

#[cfg(loom)]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::base::sync::Condvar;

    fn explore(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(3));
        builder.check(model);
    }

    /// What a model waits for: all jobs done.
    #[derive(Default)]
    struct Tally(Mutex<u32>, Condvar);

    impl Tally {
        fn add(&self, job: u32) {
            *lock(&self.0) += job;
            self.1.notify_all();
        }

        /// A job that is left lying is a deadlock, which loom reports.
        fn wait_for(&self, sum: u32) {
            let mut now = lock(&self.0);
            while *now < sum {
                now = self.1.wait(now).expect("nobody panics");
            }
        }
    }

    fn work_and_tell(lobby: &Lobby, jobs: &Jobs, tally: &Tally, mut seat: Seat) {
        loop {
            if let Some(job) = jobs.take() {
                lobby.found(&mut seat);
                lobby.call(|| jobs.wait());
                tally.add(job);
            } else if !lobby.wait(&mut seat, None, || jobs.wait()) {
                return;
            }
        }
    }

    /// Two submitters, one worker on its way to its berth: both jobs are done.
    #[test]
    fn loom_no_job_is_left_lying() {
        explore(|| {
            let shared = Arc::new((Lobby::new(), Jobs::default(), Tally::default()));
            let worker = {
                let (shared, seat) = (shared.clone(), shared.0.enter());
                thread::spawn(move || work_and_tell(&shared.0, &shared.1, &shared.2, seat))
            };
            let other = {
                let shared = shared.clone();
                thread::spawn(move || {
                    shared.1.push(1);
                    shared.0.call(|| shared.1.wait());
                })
            };
            shared.1.push(2);
            shared.0.call(|| shared.1.wait());
            shared.2.wait_for(3);
            shared.0.close();
            worker.join().expect("the model's thread");
            other.join().expect("the model's thread");
        });
    }

    /// A worker blocks in its first job until the second is done: another must have been called.
    #[test]
    fn loom_a_worker_that_blocks_has_a_successor() {
        explore(|| {
            let shared = Arc::new((Lobby::new(), Jobs::default(), Tally::default()));
            let workers = [0; 2].map(|_| {
                let (shared, mut seat) = (shared.clone(), shared.0.enter());
                thread::spawn(move || {
                    let (lobby, jobs, tally) = &*shared;
                    loop {
                        match jobs.take() {
                            Some(job) => {
                                lobby.found(&mut seat);
                                lobby.call(|| jobs.wait());
                                if job == 1 {
                                    tally.wait_for(2);
                                }
                                tally.add(job);
                            }
                            None if lobby.wait(&mut seat, None, || jobs.wait()) => {}
                            None => return,
                        }
                    }
                })
            });
            for job in [1, 2] {
                shared.1.push(job);
                shared.0.call(|| shared.1.wait());
            }
            shared.2.wait_for(3);
            shared.0.close();
            for worker in workers {
                worker.join().expect("the model's thread");
            }
        });
    }
}
