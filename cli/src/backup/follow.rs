//! Following the shards' logs while a backup is made: from where the backup before ended, or from now.
//!
//! A shard forgets its log behind snapshots, so what there is comes first, and more of it from time to time until the last
//! frame of the backup is read. Then the time is written into each log, and what is left up to there comes too: from that it
//! is known up to which recovery point the log tells everything. What a shard has forgotten before it could be fetched ends one
//! stretch of its log and begins another.

use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use mira_proto::{Code, node_v1};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::manifest::{Log, LogPage, Manifest, Object, Start, log_name, start_name};
use super::page::{SealedLogPage, bytes_of};
use super::repository::Repository;
use crate::client::Client;
use crate::error::CliError;

/// Shards that are asked at once.
const SHARDS_AT_ONCE: usize = 4;
/// Between two looks at a log while frames are read. A shard keeps tens of megabytes while it is written.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a step is tried when no node answers for the shard.
const TRIES: usize = 5;

/// Follows the logs of a cluster's shards for one backup.
pub(super) struct Following<'a> {
    pub client: &'a Client,
    pub repository: &'a Repository,
    pub backup: Uuid,
    pub key_file: &'a Bytes,
    asking: Semaphore,
}

impl<'a> Following<'a> {
    pub fn new(client: &'a Client, repository: &'a Repository, backup: Uuid, key_file: &'a Bytes) -> Self {
        Following { client, repository, backup, key_file, asking: Semaphore::new(SHARDS_AT_ONCE) }
    }

    /// What a replay from this backup must know, of every shard. Before any frame is read.
    pub async fn starts(&self, shards: u32) -> Result<Vec<Start>, CliError> {
        try_join_all((0..shards).map(|shard| self.start(shard))).await
    }

    async fn start(&self, shard: u32) -> Result<Start, CliError> {
        let request =
            node_v1::BackupStartRequest { key_file: self.key_file.clone(), backup: bytes_of(self.backup), shard };
        let reply: node_v1::BackupStartReply = self.ask("backup-start", &request).await?;
        let object = Object::of(&reply.start);
        self.repository.write(&start_name(self.backup, shard), reply.start).await?;
        Ok(Start { shard, index: reply.index, time_ms: reply.time_ms, object })
    }

    /// The logs of every shard, behind where they end in `before` (the newest backup there, with or without frames), until
    /// `last` says that nothing else is to be read, and then to the end. `starts` says where a log begins that nobody has.
    pub async fn logs(
        &self,
        shards: u32,
        before: Option<&Manifest>,
        starts: &[Start],
        last: watch::Receiver<bool>,
    ) -> Result<Vec<Log>, CliError> {
        let known = |shard| before.and_then(|before| before.logs.iter().rfind(|log| log.shard == shard));
        let from = |shard: u32| {
            let start = starts.iter().find(|start| start.shard == shard).map(|start| (start.index, start.time_ms));
            known(shard).map(|log| (log.upto(), log.time_ms())).or(start)
        };
        let all = (0..shards).map(|shard| self.log(shard, from(shard), last.clone()));
        Ok(try_join_all(all).await?.concat())
    }

    async fn log(
        &self,
        shard: u32,
        from: Option<(u64, u64)>,
        mut last: watch::Receiver<bool>,
    ) -> Result<Vec<Log>, CliError> {
        // A log that begins now, of a backup without frames: whatever there is may be of use to the next one.
        let (after, time_ms) = from.unwrap_or_default();
        let mut follower = Follower {
            following: self,
            shard,
            logs: vec![Log { shard, after, pages: Vec::new() }],
            time_ms,
            number: 0,
        };
        loop {
            // Asked before reading: what is read after the last frame is all.
            let is_last = *last.borrow();
            follower.read_on(is_last).await?;
            if is_last {
                follower.logs.retain(|log| !log.pages.is_empty());
                return Ok(follower.logs);
            }
            let _ = tokio::time::timeout(LOOK_EVERY, last.wait_for(|&last| last)).await;
        }
    }

    /// A step, tried again while a shard elects a leader.
    async fn ask<Q: prost::Message, A: prost::Message + Default>(
        &self,
        step: &str,
        request: &Q,
    ) -> Result<A, CliError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let _turn = self.asking.acquire().await.expect("it is never closed");
            match self.client.backup_step(step, request).await {
                Err(CliError::Problem(problem))
                    if matches!(problem.code, Code::Unavailable | Code::DeadlineExceeded) && tries < TRIES => {}
                other => return other,
            }
        }
    }
}

struct Follower<'a> {
    following: &'a Following<'a>,
    shard: u32,
    logs: Vec<Log>,
    /// No entry behind carries an earlier time.
    time_ms: u64,
    number: u32,
}

impl Follower<'_> {
    /// Everything that the shard has by now; with `mark`, after the time was written into its log.
    async fn read_on(&mut self, mut mark: bool) -> Result<(), CliError> {
        let Following { repository, backup, key_file, .. } = self.following;
        loop {
            let after = self.logs.last().expect("there is one").upto();
            let request = node_v1::BackupLogRequest {
                key_file: (*key_file).clone(),
                backup: bytes_of(*backup),
                shard: self.shard,
                number: self.number,
                after,
                mark,
            };
            let reply: node_v1::BackupLogReply = self.following.ask("backup-log", &request).await?;
            mark = false;
            if reply.page.is_empty() {
                return Ok(());
            }
            if reply.after > after {
                self.logs.push(Log { shard: self.shard, after: reply.after, pages: Vec::new() });
            }
            self.time_ms = self.time_ms.max(reply.time_ms);
            let bytes = SealedLogPage { touched: reply.touched, sealed: reply.page }.encode();
            let object = Object::of(&bytes);
            repository.write(&log_name(*backup, self.shard, self.number), bytes).await?;
            let page = LogPage { number: self.number, upto: reply.upto, time_ms: self.time_ms, object };
            self.logs.last_mut().expect("there is one").pages.push(page);
            self.number += 1;
            if !reply.more {
                return Ok(());
            }
        }
    }
}
