//! Clients: what they want of the world, and what the world tells them.

use super::*;
use crate::interrupts;
use crate::loyal;
use crate::members::{self, Shape};

impl World {
    pub(crate) fn spawn(
        &mut self,
        database: &'static str,
        patience: u64,
        make: impl FnOnce(Client) -> Pin<Box<dyn Future<Output = ()>>>,
    ) {
        let index = self.tasks.len();
        self.shared.borrow_mut().answered.push(0);
        let client = Client {
            index,
            database,
            port: Rc::new(RefCell::new(Port::new(self.rng.fork()))),
            shared: self.shared.clone(),
            patience,
            loyal: false,
        };
        let future = Some(make(client.clone()));
        self.tasks.push(Task {
            client,
            future,
            link: None,
            alarm: Alarm::default(),
        });
        let at = self.now + self.rng.below(20 * MS);
        let alarm = &mut self.tasks[index].alarm;
        self.events.ask(alarm, at, Event::Wake(index));
    }

    pub(super) fn spawn_admin(&mut self) {
        let Plan {
            churn,
            alone,
            standbys,
            think,
            ..
        } = self.plan;
        let shape = if alone {
            Shape::Alone
        } else if churn {
            Shape::Churning
        } else if standbys {
            Shape::OneVoter
        } else {
            Shape::Voters
        };
        self.spawn(workload::MAIN, 10 * SECOND, |client| {
            Box::pin(members::admin(client, shape, think))
        });
    }

    pub(super) fn spawn_workloads(&mut self) {
        let Plan {
            clients,
            loyal,
            think,
            ..
        } = self.plan;
        let patience = self.plan.election_ms * 10 * MS;
        for _ in 0..clients {
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::tokens(c, think))
            });
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::keys(c, think))
            });
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::lists(c, think))
            });
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::registers(c, think))
            });
        }
        for _ in 0..loyal {
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(loyal::loyal(c, think))
            });
        }
        if self.plan.slow_reading > 0 {
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::readers(c, think))
            });
        }
        for _ in 0..self.plan.interrupts {
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(interrupts::interrupts(c, think))
            });
        }
        for _ in 0..clients.min(2) {
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::bank(c, think))
            });
            self.spawn(workload::SCRATCH, patience, |c| {
                Box::pin(workload::scratch(c, think))
            });
        }
    }

    pub(super) fn tell(&mut self, client: usize, link: LinkId, incoming: Incoming) {
        if self.tasks[client].link != Some(link) {
            return;
        }
        if matches!(incoming, Incoming::Broken) {
            self.tasks[client].link = None;
        }
        self.tasks[client].client.port.borrow_mut().take(incoming);
        self.poll(client);
    }

    /// A client has waited, for long enough or for the answer to an earlier question.
    pub(super) fn wake(&mut self, index: usize) {
        let Task { client, alarm, .. } = &mut self.tasks[index];
        self.events.rings(alarm);
        let until = client.port.borrow().until;
        match until <= self.now {
            true => self.poll(index),
            false => self.events.set(alarm, until, Event::Wake(index)),
        }
    }

    /// Lets a client go on as far as it can.
    pub(super) fn poll(&mut self, index: usize) {
        let Some(mut future) = self.tasks[index].future.take() else {
            return;
        };
        let port = self.tasks[index].client.port.clone();
        port.borrow_mut().now = self.now;
        let context = &mut Context::from_waker(Waker::noop());
        if future.as_mut().poll(context).is_pending() {
            self.tasks[index].future = Some(future);
        } else {
            self.shared.borrow_mut().ended += 1;
            port.borrow_mut().commands.push(Command::Close);
        }
        let mut commands = std::mem::take(&mut port.borrow_mut().commands);
        for command in commands.drain(..) {
            self.command(index, command);
        }
        port.borrow_mut().commands = commands;
    }

    pub(super) fn command(&mut self, index: usize, command: Command) {
        match command {
            Command::WakeAt(at) => {
                let alarm = &mut self.tasks[index].alarm;
                self.events.ask(alarm, at, Event::Wake(index));
            }
            Command::Close => {
                if let Some(link) = self.tasks[index].link.take() {
                    self.hang_up(link, 0);
                }
            }
            Command::Send(bytes) => {
                if let Some(link) = self.tasks[index].link {
                    self.send(link, 0, Item::Bytes(bytes));
                }
            }
            Command::Connect(address) => {
                let site = self.site_of_client(index);
                let Some(there) = self.node_at(&address) else {
                    return;
                };
                let link = self.open_link(End::Client(index), site, there);
                self.tasks[index].link = Some(link);
                let up = self.is_reachable(site, there);
                let later = match up {
                    true => 2 * self.delay(),
                    false => self.rng.between(1, 500) * MS,
                };
                self.after(later, Event::ClientDialled(index, link, up));
            }
        }
    }

    pub(super) fn client_dialled(&mut self, client: usize, link: LinkId, up: bool) {
        if up {
            return self.tell(client, link, Incoming::Connected);
        }
        self.net.links.remove(link);
        self.tell(client, link, Incoming::Broken);
    }

    pub(crate) fn site_of_client(&self, index: usize) -> Site {
        self.nodes.len() + index
    }

    pub(crate) fn sites(&self) -> usize {
        self.nodes.len() + self.tasks.len()
    }
}
