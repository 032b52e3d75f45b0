//! No command of the meta group, whatever its fields hold, may end a replica: it would end all of them, for good.

use std::sync::Arc;
use std::time::Duration;

use mira_crypto::{ClusterKey, os_rng};
use mira_raft::{HostConfig, ProposeError, RaftHost, engine::MemEngine, transport::local::LocalNetwork};
use mira_testing::extremes;

use super::{MetaCommand, MetaMachine, NameKey, RequestOutcome};
use crate::keys::keyring::Keyring;

#[tokio::test]
async fn no_command_at_any_extreme_of_its_fields_stops_the_meta_group() {
    let keyring = Arc::new(Keyring::new(vec![ClusterKey::generate(&mut os_rng())]));
    let (machine, _) = MetaMachine::new(keyring.clone());
    let network: LocalNetwork = LocalNetwork::default();
    let engine = || Arc::new(MemEngine::new());
    let host: Arc<RaftHost> =
        RaftHost::open(HostConfig::new(1, engine(), engine(), network.transport(1))).await.unwrap();
    let group = host.open_group(0, machine).await.unwrap();
    group.initialize([1].into()).await.unwrap();
    group.watch().wait_for(Duration::from_secs(60), |status| status.is_leader()).await.unwrap();
    let layer_key = keyring.new_layer_key();
    let name_key = NameKey([3; 32]);
    let form = MetaCommand::Form { cluster_id: 1, shards: 16, replication: 3, expect: 3, layer_key, name_key };
    let mut commands: Vec<(u64, MetaCommand)> = vec![(0, form)];
    commands.extend((1..3_000).filter_map(|seed| Some((seed, extremes::draw(seed)?))));
    assert!(commands.len() > 2_000, "{} were drawn", commands.len());
    for (seed, command) in commands {
        let position = group.reader().applied_index();
        let outcome = RequestOutcome { name: [seed as u8; 16], reply: vec![seed as u8; seed as usize] };
        let sealed = command.seal_for(Some(&outcome), position, &keyring.meta_sealer(), &mut os_rng());
        match group.propose(None, sealed.into()).await {
            Ok(_) | Err(ProposeError::TooLarge { .. }) => {}
            Err(error) => panic!("seed {seed}: {error}: {command:?}"),
        }
    }
    assert!(!group.status().is_stopped());
}
