//! The two classes: which job may be taken when, and that no job is left lying (loom).

use super::*;

#[cfg(not(loom))]
mod rules {
    use super::*;

    #[test]
    fn unproven_jobs_get_only_the_places_that_are_open() {
        let queue = Queue::new(9, 2);
        for job in 0..4 {
            queue.push(Class::Unproven, job).expect("capacity");
        }
        assert_eq!(queue.len(), 4);
        assert_eq!(queue.take(), Some((Class::Unproven, 0)));
        assert_eq!(queue.take(), Some((Class::Unproven, 1)));
        assert_eq!(queue.take(), None);
        assert_eq!((queue.ready(), queue.starved()), (0, 2));
        queue.push(Class::Proven, 7).expect("capacity");
        assert_eq!((queue.ready(), queue.starved()), (1, 2));
        assert_eq!(queue.take(), Some((Class::Proven, 7)));
        queue.done(Class::Proven);
        assert_eq!(queue.take(), None);
        queue.done(Class::Unproven);
        assert_eq!((queue.ready(), queue.starved()), (1, 1));
        assert_eq!(queue.take(), Some((Class::Unproven, 2)));
    }

    #[test]
    fn where_fewer_places_are_open_jobs_at_work_go_on() {
        let queue = Queue::new(9, 2);
        for job in 0..4 {
            queue.push(Class::Unproven, job).expect("capacity");
        }
        assert!(queue.take().is_some() && queue.take().is_some());
        assert!(!queue.open(1));
        queue.done(Class::Unproven);
        assert_eq!((queue.take(), queue.starved()), (None, 2));
        assert!(queue.open(2));
        assert_eq!(queue.take(), Some((Class::Unproven, 2)));
    }

    #[test]
    fn of_the_jobs_that_may_be_taken_the_oldest_is() {
        let queue = Queue::new(9, 2);
        for (job, class) in
            [Class::Unproven, Class::Proven, Class::Unproven, Class::Unproven, Class::Proven]
                .into_iter()
                .enumerate()
        {
            queue.push(class, job).expect("capacity");
        }
        let taken: Vec<_> = std::iter::from_fn(|| queue.take()).map(|(_, job)| job).collect();
        assert_eq!(taken, [0, 1, 2, 4]);
        queue.done(Class::Unproven);
        assert_eq!(queue.take(), Some((Class::Unproven, 3)));
    }

    #[test]
    fn each_class_has_its_own_capacity() {
        let queue = Queue::new(1, 1);
        assert_eq!(queue.push(Class::Unproven, 1), Ok(()));
        assert_eq!(queue.push(Class::Unproven, 2), Err(2));
        assert_eq!(queue.push(Class::Proven, 3), Ok(()));
        assert_eq!(queue.push(Class::Proven, 4), Err(4));
        assert_eq!(queue.len(), 2);
        let back: Vec<_> = std::iter::from_fn(|| queue.take_back()).collect();
        assert_eq!(back, [1, 3]);
    }
}

#[cfg(loom)]
mod loom_models {
    use std::sync::Arc;

    use loom::thread;

    use super::*;
    use crate::base::sync::{Condvar, Mutex, lock};
    use crate::threads::pool::parking::Parking;

    struct Pool {
        parking: Parking<()>,
        queue: Queue<u32>,
        sum: Mutex<u32>,
        changed: Condvar,
    }

    impl Pool {
        fn submit(&self, class: Class, job: u32) {
            self.queue.push(class, job).expect("there is capacity");
            self.parking.wake_one(|| self.queue.ready() > 0);
        }

        /// What a worker does, with a job 1 that ends only after the proven job 10.
        fn work(&self) {
            let mut searcher = self.parking.begin_search();
            loop {
                if let Some((class, job)) = self.queue.take() {
                    self.parking.found(&mut searcher);
                    if self.queue.ready() > 0 {
                        self.parking.wake_one(|| self.queue.ready() > 0);
                    }
                    if job == 1 {
                        self.wait_for(10);
                    }
                    *lock(&self.sum) += job;
                    self.changed.notify_all();
                    self.queue.done(class);
                } else if !self.parking.wait_for_job(&mut searcher, None, || self.queue.ready() > 0)
                {
                    return;
                }
            }
        }

        /// A job that is left lying is a deadlock, which loom reports.
        fn wait_for(&self, least: u32) {
            let mut sum = lock(&self.sum);
            while *sum < least {
                sum = self.changed.wait(sum).expect("no thread panics");
            }
        }
    }

    /// Of two workers one may be at unproven jobs. The first of these waits for a proven job, and
    /// the second for the first: all are done.
    #[test]
    fn loom_no_job_is_left_lying_in_either_class() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(2));
        builder.check(|| {
            let pool = Arc::new(Pool {
                parking: Parking::new(),
                queue: Queue::new(9, 1),
                sum: Mutex::new(0),
                changed: Condvar::new(),
            });
            let workers = [0; 2].map(|_| {
                let pool = pool.clone();
                thread::spawn(move || pool.work())
            });
            pool.submit(Class::Unproven, 1);
            pool.submit(Class::Unproven, 2);
            pool.submit(Class::Proven, 10);
            pool.wait_for(13);
            pool.parking.close();
            for worker in workers {
                worker.join().expect("the model's thread");
            }
        });
    }
}
