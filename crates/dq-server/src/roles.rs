//! Which member should have which role: pure planning, one change at a time.
//!
//! The leader asks every second. What it is told of a member is its role, its failure domain and
//! weight, and for how long it has not answered. The answer is the next single change, or none:
//!
//! 1. too few voters that answer: promote a standby or spare;
//! 2. a voter does not answer and enough others do, or it has not for longer than the grace time:
//!    make it a spare. A replacement always comes first;
//! 3. too many voters: demote one, never the leader;
//! 4. a failure domain without a voter while another has two: promote there (step 3 then evens out);
//! 5. standbys likewise.
//!
//! Who is promoted first: the member whose domain has fewest of the wanted role; then the lower
//! weight; then the more senior role; then the order of the configuration. Who is demoted first: the
//! reverse. Below three members only the leader votes: two voters survive less than one.

use dq_wire::Role;

/// How many members of each role to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleTargets {
    /// Voters, at least 1; odd numbers make sense.
    pub voters: usize,
    /// Standbys.
    pub standbys: usize,
    /// How long a member may be silent before it loses its role although nobody can replace it, ms.
    pub grace_ms: u64,
}

impl Default for RoleTargets {
    fn default() -> RoleTargets {
        RoleTargets {
            voters: 3,
            standbys: 3,
            grace_ms: 30_000,
        }
    }
}

/// A member as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberView {
    /// Node id.
    pub id: u64,
    /// Its role now.
    pub role: Role,
    /// For how long it has not answered, ms; `None` if it answers.
    pub silent_ms: Option<u64>,
    /// Where it would fail together with others.
    pub domain: u64,
    /// The lower the better.
    pub weight: u64,
}

impl MemberView {
    fn is_online(&self) -> bool {
        self.silent_ms.is_none()
    }
}

/// A change of one member's role, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleChange {
    /// Whose.
    pub id: u64,
    /// The new role.
    pub role: Role,
    /// For the log.
    pub why: &'static str,
}

/// The next change, if any, in the configuration's order of members; `me` is the leader.
pub fn next_change(members: &[MemberView], me: u64, targets: &RoleTargets) -> Option<RoleChange> {
    let change = |member: &MemberView, role, why| {
        Some(RoleChange {
            id: member.id,
            role,
            why,
        })
    };
    let voters_wanted = if members.len() < 3 {
        1
    } else {
        targets.voters.max(1)
    };
    let online = |role| {
        members
            .iter()
            .filter(move |m| m.role == role && m.is_online())
    };
    let voters = online(Role::Voter).count();

    if voters < voters_wanted {
        let candidates = members
            .iter()
            .filter(|m| m.is_online() && m.role != Role::Voter);
        if let Some(member) = best(candidates, members, Role::Voter) {
            return change(member, Role::Voter, "too few voters");
        }
    }
    let silent = |role| {
        members
            .iter()
            .filter(move |m| m.role == role && m.id != me && !m.is_online())
    };
    for member in silent(Role::Voter) {
        if voters >= voters_wanted {
            return change(member, Role::Spare, "it does not answer and is replaced");
        }
        if member.silent_ms.is_some_and(|ms| ms >= targets.grace_ms) {
            return change(member, Role::Spare, "it has not answered for long");
        }
    }
    if voters > voters_wanted {
        let candidates = online(Role::Voter).filter(|m| m.id != me);
        if let Some(member) = worst(candidates, members, Role::Voter) {
            return change(member, Role::Spare, "too many voters");
        }
    }
    if voters == voters_wanted && members.len() >= 3 {
        let in_domain = |domain| online(Role::Voter).filter(|m| m.domain == domain).count();
        let crowded = online(Role::Voter).any(|m| in_domain(m.domain) > 1);
        let missing = members
            .iter()
            .filter(|m| m.is_online() && m.role != Role::Voter && in_domain(m.domain) == 0);
        if let (true, Some(member)) = (crowded, best(missing, members, Role::Voter)) {
            return change(member, Role::Voter, "no voter in its failure domain");
        }
    }
    let standbys = online(Role::Standby).count();
    if standbys < targets.standbys
        && let Some(member) = best(online(Role::Spare), members, Role::Standby)
    {
        return change(member, Role::Standby, "too few standbys");
    }
    for member in silent(Role::Standby) {
        let long = member.silent_ms.is_some_and(|ms| ms >= targets.grace_ms);
        if standbys >= targets.standbys || long {
            return change(member, Role::Spare, "it does not answer");
        }
    }
    if standbys > targets.standbys
        && let Some(member) = worst(online(Role::Standby), members, Role::Standby)
    {
        return change(member, Role::Spare, "too many standbys");
    }
    None
}

/// The order in which members are promoted to `wanted`.
fn rank(member: &MemberView, members: &[MemberView], wanted: Role) -> (usize, u64, u64) {
    let beside = members
        .iter()
        .filter(|m| m.role == wanted && m.is_online() && m.domain == member.domain)
        .count();
    (beside, member.weight, member.role.to_wire())
}

fn best<'a>(
    candidates: impl Iterator<Item = &'a MemberView>,
    members: &[MemberView],
    wanted: Role,
) -> Option<&'a MemberView> {
    candidates.min_by_key(|member| rank(member, members, wanted))
}

fn worst<'a>(
    candidates: impl Iterator<Item = &'a MemberView>,
    members: &[MemberView],
    wanted: Role,
) -> Option<&'a MemberView> {
    // Among equals the first: the opposite of what max_by_key takes.
    candidates.min_by_key(|member| std::cmp::Reverse(rank(member, members, wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1:v 2:b,d1,w2 3:s,off`: id, role (v voter, b standby, s spare), domain, weight, offline.
    fn members(text: &str) -> Vec<MemberView> {
        let member = |word: &str| {
            let (id, rest) = word.split_once(':').expect("id:role");
            let mut parts = rest.split(',');
            let role = match parts.next() {
                Some("v") => Role::Voter,
                Some("b") => Role::Standby,
                _ => Role::Spare,
            };
            let id = id.parse().expect("a number");
            let mut view = MemberView {
                id,
                role,
                silent_ms: None,
                domain: 0,
                weight: 0,
            };
            for part in parts {
                match part.split_at(1) {
                    ("d", n) => view.domain = n.parse().expect("a number"),
                    ("w", n) => view.weight = n.parse().expect("a number"),
                    _ => view.silent_ms = Some(5_000),
                }
            }
            view
        };
        text.split_whitespace().map(member).collect()
    }

    /// Applies changes until there are none; says which members ended up with another role.
    #[track_caller]
    fn check(voters: usize, standbys: usize, me: u64, before: &str, want: &str) {
        let targets = RoleTargets {
            voters,
            standbys,
            grace_ms: 0,
        };
        let mut now = members(before);
        for _ in 0..20 {
            let Some(change) = next_change(&now, me, &targets) else {
                break;
            };
            let member = now
                .iter_mut()
                .find(|m| m.id == change.id)
                .expect("a member");
            assert_ne!(
                member.role, change.role,
                "{before}: {change:?} changes something"
            );
            member.role = change.role;
        }
        assert_eq!(
            next_change(&now, me, &targets),
            None,
            "{before}: it comes to an end"
        );
        let letter = |role| match role {
            Role::Voter => 'v',
            Role::Standby => 'b',
            Role::Spare => 's',
        };
        let changed: Vec<String> = members(before)
            .iter()
            .zip(&now)
            .filter(|(old, new)| old.role != new.role)
            .map(|(_, new)| format!("{}:{}", new.id, letter(new.role)))
            .collect();
        assert_eq!(changed.join(" "), want, "{before}");
    }

    #[test]
    fn the_originals_cases_come_out_the_same() {
        check(3, 0, 1, "1:v 2:v 3:b", "3:v");
        check(1, 0, 1, "1:v 2:v", "2:s");
        check(3, 1, 1, "1:v 2:v 3:v 4:s", "4:b");
        check(1, 0, 1, "1:v 2:b", "2:s");
        check(3, 1, 1, "1:v 2:v 3:b,off", "3:s");
        check(3, 0, 1, "1:v 2:v 3:v,off 4:s", "3:s 4:v");
        check(1, 1, 3, "1:s 2:b,off 3:v", "1:b 2:s");
        check(3, 1, 4, "1:s 2:b 3:v 4:v", "1:b 2:v");
        check(3, 1, 1, "1:v,d1 2:v,d1 3:b,d1 4:b,d2", "4:v");
        check(1, 1, 1, "1:v,d1 2:s,d2 3:s,d1", "2:b");
        check(3, 1, 1, "1:v 2:v 3:b,d1 4:b,d2,off", "3:v 4:s");
        check(1, 1, 1, "1:v 2:s,d2,off 3:s", "3:b");
        check(3, 1, 1, "1:v 2:v 3:b,w2 4:b,w1", "4:v");
        check(1, 1, 1, "1:v 2:s,w1 3:s,w2", "2:b");
        check(1, 2, 1, "1:v 2:b,d1 3:s,d1,w1 4:s,d2,w2", "4:b");
    }

    #[test]
    fn a_silent_voter_is_replaced_before_it_is_demoted() {
        let now = members("1:v 2:v 3:v,off 4:s");
        let change = next_change(&now, 1, &RoleTargets::default());
        assert_eq!(change.map(|c| (c.id, c.role)), Some((4, Role::Voter)));
    }

    #[test]
    fn a_silent_voter_nobody_can_replace_keeps_its_role_for_the_grace_time() {
        let mut now = members("1:v 2:v 3:v,off");
        assert_eq!(next_change(&now, 1, &RoleTargets::default()), None);
        now[2].silent_ms = Some(30_000);
        let change = next_change(&now, 1, &RoleTargets::default());
        assert_eq!(change.map(|c| (c.id, c.role)), Some((3, Role::Spare)));
    }

    #[test]
    fn two_members_keep_one_voter_and_three_get_three() {
        assert_eq!(
            next_change(&members("1:v 2:b"), 1, &RoleTargets::default()),
            None
        );
        let change = next_change(&members("1:v 2:b 3:s"), 1, &RoleTargets::default());
        assert_eq!(change.map(|c| (c.id, c.role)), Some((2, Role::Voter)));
    }

    #[test]
    fn a_domain_without_a_voter_gets_one_from_a_crowded_domain() {
        check(3, 1, 1, "1:v,d1 2:v,d1 3:v,d2 4:b,d3", "2:b 4:v");
    }
}
