//! The client that forms the cluster, changes its membership, and reads everything at the end.

use dq_wire::{Request, Role};

use crate::client::{Answer, Client, Phase};
use crate::plan::MS;
use crate::workload::{SCHEMA, read_all};

/// What becomes of the membership while faults happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// All vote.
    Voters,
    /// Only the first node votes, the others stand by.
    OneVoter,
    /// Roles change all the time, sensibly or not.
    Churning,
    /// It shrinks to one voter and grows again.
    Alone,
}

/// Forms the cluster, changes its membership, restores it, and reads everything at the end.
pub(crate) async fn admin(client: Client, shape: Shape, think: u64) {
    restore(&client, shape).await;
    make_tables(&client).await;
    client.shared.borrow_mut().formed = true;
    while client.phase() <= Phase::Chaos {
        match shape {
            Shape::Churning if client.ready().await => disturb(&client).await,
            Shape::Alone if client.ready().await => shrink(&client).await,
            _ => replace(&client, shape).await,
        }
        client.think(10 * think).await;
    }
    restore(&client, shape).await;
    client.shared.borrow_mut().restored = true;
    while client.phase() != Phase::Verify {
        replace(&client, shape).await;
        client.sleep(10 * MS).await;
    }
    while client.ready().await && !read_all(&client).await {
        client.close();
        client.sleep(10 * MS).await;
    }
    client.shared.borrow_mut().verified = true;
}

/// Makes the tables: with one text, or, where its statements take longer together than anybody waits,
/// one after the other, so that each try leaves less for the next.
async fn make_tables(client: &Client) {
    let mut left: Vec<&str> = vec![SCHEMA];
    while let Some(sql) = left.first()
        && client.ready().await
    {
        if client.exec(sql, &[]).await.is_ok() {
            left.remove(0);
        } else {
            client.close();
            left = left.iter().flat_map(|sql| sql.split(";\n")).collect();
        }
    }
}

/// One change of the membership, sensible or not.
async fn disturb(client: &Client) {
    let count = client.shared.borrow().addresses.len() as u64;
    let node = client.below(count) + 1;
    let address = client.shared.borrow().addresses[node as usize - 1].clone();
    let request = match client.below(8) {
        0 => Request::Remove { id: node },
        1 => Request::Add {
            id: node,
            address: address.as_bytes(),
        },
        2 => Request::Transfer { id: node },
        3 => Request::Assign { id: node, role: 1 },
        4 => Request::Assign { id: node, role: 2 },
        _ => Request::Assign { id: node, role: 0 },
    };
    // Whatever comes of it: what has to hold afterwards is checked elsewhere.
    if client
        .call(&request)
        .await
        .is_err_and(|failure| failure.is_unknown())
    {
        client.close();
    }
}

/// Takes the vote from all but one, the leader's own included, and gives it back.
async fn shrink(client: &Client) {
    let count = client.shared.borrow().addresses.len() as u64;
    let kept = client.below(count) + 1;
    let mut patience = 4 * count;
    for (role, keeps) in [(1 + client.below(2), true), (0, false)] {
        while client.phase() == Phase::Chaos && patience > 0 && client.ready().await {
            patience -= 1;
            let Ok(Answer::Members(members)) = client.call(&Request::Cluster { format: 1 }).await
            else {
                client.close();
                continue;
            };
            let votes = |role: Role| role == Role::Voter;
            let other = members
                .iter()
                .find(|(id, role)| votes(*role) == keeps && !(keeps && *id == kept));
            let Some((id, _)) = other else { break };
            if client
                .call(&Request::Assign { id: *id, role })
                .await
                .is_err()
            {
                client.close();
                client.sleep(5 * MS).await;
            }
        }
    }
}

/// Where a node was replaced: removes the old member and adds the new one.
async fn replace(client: &Client, shape: Shape) {
    if client.shared.borrow().disordered {
        restore(client, shape).await;
    }
}

/// Gives every node its role, and removes those that are none any more, however long it takes.
async fn restore(client: &Client, shape: Shape) {
    let wanted = |place: usize| match shape == Shape::OneVoter && place > 0 {
        true => Role::Standby,
        false => Role::Voter,
    };
    while client.ready().await {
        let Ok(Answer::Members(members)) = client.call(&Request::Cluster { format: 1 }).await
        else {
            client.close();
            continue;
        };
        let (addresses, ids, outside) = {
            let shared = client.shared.borrow();
            let outside = shared.outside.clone();
            (shared.addresses.clone(), shared.ids.clone(), outside)
        };
        let role = |id: u64| {
            members
                .iter()
                .find(|(member, _)| *member == id)
                .map(|m| m.1)
        };
        // Only a member that was added in so many words may start with nothing: then it is certain that
        // the one before it is removed.
        let former = members.iter().map(|member| member.0);
        let mut former = former.filter(|id| !ids.contains(id) || outside.contains(id));
        let mut places = ids.iter().enumerate();
        let request = if let Some(id) = former.next() {
            Request::Remove { id }
        } else if let Some((place, id)) =
            places.find(|(place, id)| role(**id) != Some(wanted(*place)))
        {
            match role(*id) {
                None => Request::Add {
                    id: *id,
                    address: addresses[place].as_bytes(),
                },
                Some(_) => Request::Assign {
                    id: *id,
                    role: u64::from(wanted(place) == Role::Standby),
                },
            }
        } else {
            client.shared.borrow_mut().disordered = false;
            return;
        };
        match (client.call(&request).await, &request) {
            (Ok(_), Request::Add { id, .. }) => {
                client.shared.borrow_mut().outside.remove(id);
            }
            (Ok(_), _) => {}
            (Err(_), _) => {
                client.close();
                client.sleep(20 * MS).await;
            }
        }
    }
}
