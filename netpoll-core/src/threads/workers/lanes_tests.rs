//! The two lanes: who may be taken when, and that no job is left lying (loom).

use super::*;

#[cfg(not(loom))]
mod rules {
    use super::*;

    #[test]
    fn others_get_only_the_places_that_are_open() {
        let lanes = Lanes::new(9, 2);
        for job in 0..4 {
            lanes.push(Lane::Others, job).expect("room");
        }
        assert_eq!(lanes.len(), 4);
        assert_eq!(lanes.take(), Some((Lane::Others, 0)));
        assert_eq!(lanes.take(), Some((Lane::Others, 1)));
        assert_eq!(lanes.take(), None);
        assert_eq!((lanes.ready(), lanes.starved()), (0, 2));
        lanes.push(Lane::Proven, 7).expect("room");
        assert_eq!((lanes.ready(), lanes.starved()), (1, 2));
        assert_eq!(lanes.take(), Some((Lane::Proven, 7)));
        lanes.done(Lane::Proven);
        assert_eq!(lanes.take(), None);
        lanes.done(Lane::Others);
        assert_eq!((lanes.ready(), lanes.starved()), (1, 1));
        assert_eq!(lanes.take(), Some((Lane::Others, 2)));
    }

    #[test]
    fn where_fewer_places_are_open_those_at_work_go_on() {
        let lanes = Lanes::new(9, 2);
        for job in 0..4 {
            lanes.push(Lane::Others, job).expect("room");
        }
        assert!(lanes.take().is_some() && lanes.take().is_some());
        assert!(!lanes.open(1));
        lanes.done(Lane::Others);
        assert_eq!((lanes.take(), lanes.starved()), (None, 2));
        assert!(lanes.open(2));
        assert_eq!(lanes.take(), Some((Lane::Others, 2)));
    }

    #[test]
    fn of_those_that_may_be_taken_the_oldest_is() {
        let lanes = Lanes::new(9, 2);
        for (job, lane) in [Lane::Others, Lane::Proven, Lane::Others, Lane::Others, Lane::Proven]
            .into_iter()
            .enumerate()
        {
            lanes.push(lane, job).expect("room");
        }
        let taken: Vec<_> = std::iter::from_fn(|| lanes.take()).map(|(_, job)| job).collect();
        assert_eq!(taken, [0, 1, 2, 4]);
        lanes.done(Lane::Others);
        assert_eq!(lanes.take(), Some((Lane::Others, 3)));
    }

    #[test]
    fn each_lane_has_its_own_room() {
        let lanes = Lanes::new(1, 1);
        assert_eq!(lanes.push(Lane::Others, 1), Ok(()));
        assert_eq!(lanes.push(Lane::Others, 2), Err(2));
        assert_eq!(lanes.push(Lane::Proven, 3), Ok(()));
        assert_eq!(lanes.push(Lane::Proven, 4), Err(4));
        assert_eq!(lanes.len(), 2);
        let back: Vec<_> = std::iter::from_fn(|| lanes.take_back()).collect();
        assert_eq!(back, [1, 3]);
    }
}

#[cfg(loom)]
mod loom_models {
    use std::sync::Arc;

    use loom::thread;

    use super::*;
    use crate::base::sync::{Condvar, Mutex, lock};
    use crate::threads::workers::lobby::Lobby;

    struct Pool {
        lobby: Lobby,
        lanes: Lanes<u32>,
        sum: Mutex<u32>,
        changed: Condvar,
    }

    impl Pool {
        fn submit(&self, lane: Lane, job: u32) {
            self.lanes.push(lane, job).expect("there is room");
            self.lobby.call(|| self.lanes.ready() > 0);
        }

        /// What a worker does, with a job 1 that ends only after the proven job 10.
        fn work(&self) {
            let mut seat = self.lobby.enter();
            loop {
                if let Some((lane, job)) = self.lanes.take() {
                    self.lobby.found(&mut seat);
                    if self.lanes.ready() > 0 {
                        self.lobby.call(|| self.lanes.ready() > 0);
                    }
                    if job == 1 {
                        self.wait_for(10);
                    }
                    *lock(&self.sum) += job;
                    self.changed.notify_all();
                    self.lanes.done(lane);
                } else if !self.lobby.wait(&mut seat, None, || self.lanes.ready() > 0) {
                    return;
                }
            }
        }

        /// A job that is left lying is a deadlock, which loom reports.
        fn wait_for(&self, least: u32) {
            let mut sum = lock(&self.sum);
            while *sum < least {
                sum = self.changed.wait(sum).expect("nobody panics");
            }
        }
    }

    /// Of two workers one may be at others' jobs. The first of these waits for a proven job, and
    /// the second for the first: all are done.
    #[test]
    fn loom_no_job_is_left_lying_in_either_lane() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(2));
        builder.check(|| {
            let pool = Arc::new(Pool {
                lobby: Lobby::new(),
                lanes: Lanes::new(9, 1),
                sum: Mutex::new(0),
                changed: Condvar::new(),
            });
            let workers = [0; 2].map(|_| {
                let pool = pool.clone();
                thread::spawn(move || pool.work())
            });
            pool.submit(Lane::Others, 1);
            pool.submit(Lane::Others, 2);
            pool.submit(Lane::Proven, 10);
            pool.wait_for(13);
            pool.lobby.close();
            for worker in workers {
                worker.join().expect("the model's thread");
            }
        });
    }
}
