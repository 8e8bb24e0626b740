//! Searching: no thread is woken without need, and no job is left lying (loom).

use std::collections::VecDeque;

use super::*;
use crate::base::sync::{Mutex, lock};

#[cfg(not(loom))]
#[test]
fn one_thread_is_woken_for_many_jobs() {
    let parking = Parking::new();
    let mut searchers: Vec<_> = (0..3).map(|_| parking.begin_search()).collect();
    assert_eq!(parking.idle(), 3);
    for searcher in &mut searchers {
        parking.found(searcher);
        parking.park(&searcher.slot);
    }
    for _ in 0..5 {
        parking.wake_one(|| true);
        assert_eq!((parking.parked(), parking.idle()), (2, 3));
    }
    // It has found one of the five: the next one is woken.
    let mut woken = searchers.pop().expect("the one that parked last");
    assert!(parking.wait(&woken.slot, None).is_some());
    woken.searches = true;
    parking.found(&mut woken);
    parking.wake_one(|| true);
    assert_eq!((parking.parked(), parking.idle()), (1, 2));
}

/// In a model: the queue of jobs.
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

/// What the workers do between two callbacks.
#[cfg(not(loom))]
fn work(parking: &Parking<()>, jobs: &Jobs, mut searcher: Searcher) -> u32 {
    let mut done = 0;
    loop {
        if let Some(job) = jobs.take() {
            parking.found(&mut searcher);
            parking.wake_one(|| jobs.wait());
            done += job;
        } else if !parking.wait_for_job(&mut searcher, None, || jobs.wait()) {
            return done;
        }
    }
}

#[cfg(not(loom))]
#[test]
fn all_jobs_are_done_by_the_threads_that_are_there() {
    for _ in 0..200 {
        let (parking, jobs) = (Parking::new(), Jobs::default());
        let done: u32 = std::thread::scope(|scope| {
            let searchers =
                [parking.begin_search(), parking.begin_search(), parking.begin_search()];
            let workers = searchers.map(|searcher| scope.spawn(|| work(&parking, &jobs, searcher)));
            for job in 1..=100 {
                jobs.push(job);
                parking.wake_one(|| jobs.wait());
            }
            while jobs.wait() {
                std::thread::yield_now();
            }
            parking.close();
            workers.map(|worker| worker.join().expect("it returns")).iter().sum()
        });
        assert_eq!(done, 5050);
    }
}

#[cfg(loom)]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::base::sync::{Condvar, explore};

    /// In a model: the sum of the jobs done, which it waits for.
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
                now = self.1.wait(now).expect("no thread panics");
            }
        }
    }

    fn work_and_tell(parking: &Parking<()>, jobs: &Jobs, tally: &Tally, mut searcher: Searcher) {
        loop {
            if let Some(job) = jobs.take() {
                parking.found(&mut searcher);
                parking.wake_one(|| jobs.wait());
                tally.add(job);
            } else if !parking.wait_for_job(&mut searcher, None, || jobs.wait()) {
                return;
            }
        }
    }

    /// Two threads submit a job each while a worker is about to park: both jobs are done.
    #[test]
    fn loom_no_job_is_left_lying() {
        explore(|| {
            let shared = Arc::new((Parking::new(), Jobs::default(), Tally::default()));
            let worker = {
                let (shared, searcher) = (shared.clone(), shared.0.begin_search());
                thread::spawn(move || work_and_tell(&shared.0, &shared.1, &shared.2, searcher))
            };
            let other = {
                let shared = shared.clone();
                thread::spawn(move || {
                    shared.1.push(1);
                    shared.0.wake_one(|| shared.1.wait());
                })
            };
            shared.1.push(2);
            shared.0.wake_one(|| shared.1.wait());
            shared.2.wait_for(3);
            shared.0.close();
            worker.join().expect("the model's thread");
            other.join().expect("the model's thread");
        });
    }

    /// A worker blocks in its first job until the second is done: another must have been woken.
    #[test]
    fn loom_a_worker_that_blocks_has_a_successor() {
        explore(|| {
            let shared = Arc::new((Parking::new(), Jobs::default(), Tally::default()));
            let workers = [0; 2].map(|_| {
                let (shared, mut searcher) = (shared.clone(), shared.0.begin_search());
                thread::spawn(move || {
                    let (parking, jobs, tally) = &*shared;
                    loop {
                        match jobs.take() {
                            Some(job) => {
                                parking.found(&mut searcher);
                                parking.wake_one(|| jobs.wait());
                                if job == 1 {
                                    tally.wait_for(2);
                                }
                                tally.add(job);
                            }
                            None if parking.wait_for_job(&mut searcher, None, || jobs.wait()) => {}
                            None => return,
                        }
                    }
                })
            });
            for job in [1, 2] {
                shared.1.push(job);
                shared.0.wake_one(|| shared.1.wait());
            }
            shared.2.wait_for(3);
            shared.0.close();
            for worker in workers {
                worker.join().expect("the model's thread");
            }
        });
    }
}
