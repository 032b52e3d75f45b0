//! Diversity: hits that say something new before those that repeat what was said.
//!
//! Maximal marginal relevance (Carbonell & Goldstein 1998): the next hit is the one with the best
//! `(1 - diversity) · relevance - diversity · similarity`, where the similarity is that to the nearest hit already taken,
//! as a cosine, and the relevance is the score brought into 0..=1 over the pool, so that it weighs the same under
//! every metric.

use crate::ranking::merge::Candidate;

/// Takes `k` hits of a ranked pool whose candidates carry their vectors. Cost: O(k · pool · dimension).
pub fn diversify(pool: Vec<Candidate>, k: usize, diversity: f32) -> Vec<Candidate> {
    let best = pool.first().map_or(0.0, |candidate| candidate.score);
    let spread = (best - pool.last().map_or(0.0, |candidate| candidate.score)).max(f32::MIN_POSITIVE);
    let worst = best - spread;
    // Of each candidate: its nearness to the nearest hit taken so far.
    let mut left: Vec<(Candidate, f32)> = pool.into_iter().map(|candidate| (candidate, 0.0)).collect();
    let mut taken: Vec<Candidate> = Vec::with_capacity(k.min(left.len()));
    while taken.len() < k && !left.is_empty() {
        let value = |(candidate, nearest): &(Candidate, f32)| {
            (1.0 - diversity) * (candidate.score - worst) / spread - diversity * nearest
        };
        // Of equals the first, which ranks higher.
        let mut next = 0;
        for at in 1..left.len() {
            if value(&left[at]) > value(&left[next]) {
                next = at;
            }
        }
        let (candidate, _) = left.remove(next);
        for (other, nearest) in &mut left {
            *nearest = nearest.max(cosine(&candidate.vector, &other.vector));
        }
        taken.push(candidate);
    }
    taken
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u128, score: f32, vector: [f32; 2]) -> Candidate {
        Candidate { id, score, vector: vector.to_vec().into(), ..Candidate::default() }
    }

    #[test]
    fn repetition_gives_way_to_what_is_new() {
        let pool = || {
            vec![
                candidate(1, 0.90, [1.0, 0.0]),
                candidate(2, 0.89, [1.0, 0.01]),
                candidate(3, 0.88, [1.0, 0.02]),
                candidate(4, 0.70, [0.0, 1.0]),
                candidate(5, 0.50, [-1.0, 0.0]),
            ]
        };
        let order = |k, diversity| diversify(pool(), k, diversity).iter().map(|hit| hit.id).collect::<Vec<_>>();
        assert_eq!(order(3, 0.0), [1, 2, 3], "without diversity: as ranked");
        assert_eq!(order(2, 0.5), [1, 4]);
        assert_eq!(order(3, 1.0), [1, 4, 5], "with nothing else: what is unlike the first");
        assert_eq!(order(9, 0.5).len(), 5);
        assert!(diversify(Vec::new(), 3, 0.5).is_empty());
    }
}
