//! Held: batches in which another open transaction holds rows.
//!
//! What is free is done at once. What stays held is tried again for a while and then answered `busy`, each element
//! for itself: one caller's open transaction must not use up the connections of all others.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::{Store, StoreError};

/// For how long a call waits for a row that another transaction holds.
pub(super) const HELD_MAX: Duration = Duration::from_secs(2);

impl Store {
    /// Runs `statement`, which waits shortly for rows and writes all or nothing, on the elements of a batch. `None`:
    /// the element's row stayed held until the deadline.
    pub(super) async fn around_held<A, F>(
        &self,
        runs: &[&str],
        deadline: Instant,
        statement: impl Fn(Vec<usize>) -> F,
    ) -> Result<Vec<Option<A>>, StoreError>
    where
        F: Future<Output = Result<Vec<A>, StoreError>>,
    {
        let mut answers: Vec<Option<A>> = runs.iter().map(|_| None).collect();
        let mut groups = VecDeque::from([(0..runs.len()).collect::<Vec<usize>>()]);
        while let Some(group) = groups.pop_front() {
            match statement(group.clone()).await {
                Ok(all) => group.into_iter().zip(all).for_each(|(at, answer)| answers[at] = Some(answer)),
                Err(error) if error.is_lock_timeout() => {
                    let held = self.held_of(&group.iter().map(|&at| runs[at]).collect::<Vec<_>>()).await?;
                    let (held, mut free): (Vec<usize>, Vec<usize>) =
                        group.into_iter().partition(|&at| held.contains(runs[at]));
                    let again = Instant::now() < deadline;
                    match (held.is_empty(), free.len()) {
                        // Its row was just inserted by another transaction, which has not committed it yet.
                        (true, 1) if again => groups.push_back(free),
                        (true, count) if count > 1 && again => {
                            groups.push_front(free.split_off(count / 2));
                            groups.push_front(free);
                        }
                        (true, _) => {}
                        (false, count) => {
                            if count > 0 {
                                groups.push_front(free);
                            }
                            if again {
                                groups.push_back(held);
                            }
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// The runs whose pending row another transaction has locked now.
    async fn held_of(&self, runs: &[&str]) -> Result<HashSet<String>, StoreError> {
        let held = sqlx::query_scalar!(
            r#"with free as materialized (
                 select run_id from pending where run_id = any ($1::text[]) for update skip locked
               )
               select p.run_id from pending p
               where p.run_id = any ($1::text[]) and p.run_id not in (select free.run_id from free)"#,
            runs as &[&str],
        )
        .fetch_all(self.durable())
        .await
        .map_err(StoreError::doing("find held rows"))?;
        Ok(held.into_iter().collect())
    }
}
