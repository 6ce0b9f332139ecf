//! Who may do what: one table of operations and roles, and the one function that reads it, for the admin API and the data
//! plane alike. What the table does not permit is denied. Knows no requests and no store.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    config::Role,
    error::{Error, Kind, Result},
};

/// What a role permits of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    No,
    /// On what is the actor's own, within the scope that the role is held over.
    Own,
    /// On all within that scope.
    All,
}

/// The table. An operation cannot be without its row, and a route not without its operation.
macro_rules! operations {
    ($($operation:ident $name:literal $meaning:literal [$owner:ident $admin:ident $operator:ident $developer:ident $viewer:ident $billing:ident])*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation { $($operation),* }

        impl Operation {
            pub const ALL: &[Operation] = &[$(Operation::$operation),*];

            /// As messages and the reference call it.
            pub const fn name(self) -> &'static str {
                match self { $(Operation::$operation => $name),* }
            }

            pub const fn meaning(self) -> &'static str {
                match self { $(Operation::$operation => $meaning),* }
            }

            const fn row(self) -> [Cell; 6] {
                match self {
                    $(Operation::$operation => [Cell::$owner, Cell::$admin, Cell::$operator, Cell::$developer, Cell::$viewer, Cell::$billing]),*
                }
            }
        }
    };
}

operations! {
    //                                                                               owner admin operator developer viewer billing
    CallModels          "models.call"          "call models"                          [All All All All No  No]
    Look                "gateway.look"         "see models, providers and the API"    [All All All All All All]
    ReadMetrics         "metrics.read"         "read metrics"                         [All All All No  All No]
    ReadOrganisations   "organisations.read"   "see organisations"                    [All All All All All All]
    ChangeOrganisations "organisations.change" "make, change and delete organisations" [All All No No  No  No]
    ReadTeams           "teams.read"           "see teams"                            [All All All All All All]
    ChangeTeams         "teams.change"         "make, change and delete teams"        [All All No  No  No  No]
    ReadUsers           "users.read"           "see users and service accounts"       [All All All Own All All]
    ChangeUsers         "users.change"         "make, change and delete users and service accounts" [All All No No No No]
    ReadKeys            "keys.read"            "see virtual keys"                     [All All All Own All No]
    CreateKeys          "keys.create"          "make virtual keys"                    [All All No  Own No  No]
    ChangeKeys          "keys.change"          "change and rotate virtual keys"       [All All No  Own No  No]
    RevokeKeys          "keys.revoke"          "revoke virtual keys"                  [All All All Own No  No]
    ReadTokens          "tokens.read"          "see admin tokens"                     [All All All Own No  No]
    CreateTokens        "tokens.create"        "make admin tokens"                    [All All No  Own No  No]
    RevokeTokens        "tokens.revoke"        "revoke admin tokens"                  [All All All Own No  No]
    ReadUsage           "usage.read"           "see usage and costs"                  [All All All All All All]
    RerateUsage         "usage.rerate"         "give recorded usage other prices"     [All All No  No  No  No]
    ReadExperiments     "experiments.read"     "compare arms of experiments"          [All All All No  All All]
    ChangeBudgets       "budgets.change"       "raise budgets for a time"             [All All No  No  No  All]
    FlushCache          "cache.flush"          "remove kept answers"                  [All All All No  No  No]
    ReadQuotas          "quotas.read"          "see what is left of providers' quotas" [All All All No  All All]
    ReadRequests        "requests.read"        "see requests and their decisions"     [All All All Own All No]
    ReadBodies          "bodies.read"          "read what requests and answers said"  [All No  No  No  No  No]
    Explain             "explain"              "ask what would become of a request"   [All All All All No  No]
    ReadConfig          "config.read"          "see configuration, versions and rollouts" [All All All No All No]
    ChangeConfig        "config.change"        "reload, roll back, promote and stop"  [All All All No  No  No]
    ReadSecrets         "secrets.read"         "see which secrets there are"          [All All All No  No  No]
    ChangeSecrets       "secrets.change"       "set and remove secrets"               [All All No  No  No  No]
    RotateMaster        "secrets.rotate"       "take on another master key"           [All No  No  No  No  No]
    ReadAudit           "audit.read"           "read the audit log"                   [All All No  No  All No]
    ReadState           "state.read"           "see nodes and the store"              [All All All No  All No]
    ExportState         "state.export"         "export the store"                     [All No  No  No  No  No]
}

impl Operation {
    pub const fn cell(self, role: Role) -> Cell {
        self.row()[role as usize]
    }

    /// It changes something: then all that the thing belongs to must be within reach, not only a part.
    pub const fn changes(self) -> bool {
        !matches!(
            self,
            Operation::CallModels
                | Operation::Look
                | Operation::ReadMetrics
                | Operation::ReadOrganisations
                | Operation::ReadTeams
                | Operation::ReadUsers
                | Operation::ReadKeys
                | Operation::ReadTokens
                | Operation::ReadUsage
                | Operation::ReadExperiments
                | Operation::ReadQuotas
                | Operation::ReadRequests
                | Operation::ReadBodies
                | Operation::Explain
                | Operation::ReadConfig
                | Operation::ReadSecrets
                | Operation::ReadAudit
                | Operation::ReadState
        )
    }
}

/// Who acts: on the admin plane, or by a request.
#[derive(Debug, Clone, Default)]
pub struct Actor {
    /// For messages and records: `admin.token`, `local user`, a token's name, a user.
    pub name: Arc<str>,
    /// The user it acts for.
    pub user: Option<Arc<str>>,
    /// The admin token that it came with.
    pub token: Option<Arc<str>>,
    /// The issuer whose signed token it came with, as gateway.toml calls it.
    pub issuer: Option<Arc<str>>,
    pub holds: Arc<[Held]>,
}

/// A role, and how far it reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub role: Role,
    pub reach: Reach,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    Everything,
    Organisation(Arc<str>),
    Team(Arc<str>),
    User(Arc<str>),
}

/// What an operation touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The gateway as a whole.
    Gateway,
    /// What is nobody's in particular: whoever holds a role may see it.
    Common,
    Of(Place),
}

/// Where a thing belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub teams: Vec<Membership>,
    pub user: Option<Arc<str>>,
}

/// In a team, in an organisation, or in a team of an organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub organisation: Option<Arc<str>>,
    pub team: Option<Arc<str>>,
}

/// May this actor do that, there? The only question about rights; the error says which permission is missing.
pub fn permits(actor: &Actor, operation: Operation, target: &Target) -> Result<()> {
    let allowed = actor.holds.iter().any(|held| match operation.cell(held.role) {
        Cell::No => false,
        Cell::All => held.reach.covers(target, operation.changes()),
        Cell::Own => held.reach.covers_own(actor.user.as_ref(), target),
    });
    if allowed { Ok(()) } else { Err(missing(actor, operation, target)) }
}

/// May this actor give these roles to somebody? Only who holds each of them, or one that permits as much, over as much.
/// `place`: where a reach lies.
pub fn may_give(actor: &Actor, wanted: &[Held], place: impl Fn(&Reach) -> Target) -> Result<()> {
    for held in wanted {
        if !covered(&actor.holds, held, &place(&held.reach)) {
            let message = format!(
                "{} cannot give the role {} over {}: only who holds it, or more, can",
                actor.name,
                held.role.name(),
                held.reach.words()
            );
            return Err(Error::new(Kind::Forbidden, message).with_code(NOT_PERMITTED).at("roles"));
        }
    }
    Ok(())
}

/// Is a role among these, or one that permits as much over as much? `lies`: where its reach lies.
pub fn covered(holds: &[Held], wanted: &Held, lies: &Target) -> bool {
    holds
        .iter()
        .any(|own| includes(own.role, wanted.role) && (own.reach == wanted.reach || own.reach.covers(lies, true)))
}

impl Actor {
    /// May do everything.
    pub fn owner(name: &str) -> Actor {
        let holds = Arc::new([Held { role: Role::Owner, reach: Reach::Everything }]);
        Actor { name: name.into(), holds, ..Actor::default() }
    }

    /// Role names, for messages.
    pub fn roles(&self) -> String {
        let names: BTreeSet<&str> = self.holds.iter().map(|held| held.role.name()).collect();
        if names.is_empty() { "no role".to_owned() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
    }
}

/// Does a role permit all that another one does?
fn includes(role: Role, other: Role) -> bool {
    Operation::ALL.iter().all(|operation| operation.cell(role) >= operation.cell(other))
}

impl Reach {
    /// `whole`: all that the target belongs to, not only a part of it.
    fn covers(&self, target: &Target, whole: bool) -> bool {
        let place = match (self, target) {
            (Reach::Everything, _) | (_, Target::Common) => return true,
            (_, Target::Gateway) => return false,
            (_, Target::Of(place)) => place,
        };
        let within = |membership: &Membership| match self {
            Reach::Organisation(name) => membership.organisation.as_ref() == Some(name),
            Reach::Team(name) => membership.team.as_ref() == Some(name),
            Reach::Everything | Reach::User(_) => false,
        };
        match self {
            Reach::User(name) => place.user.as_ref() == Some(name),
            _ if whole => !place.teams.is_empty() && place.teams.iter().all(within),
            _ => place.teams.iter().any(within),
        }
    }

    fn covers_own(&self, user: Option<&Arc<str>>, target: &Target) -> bool {
        match target {
            Target::Common => true,
            Target::Of(place) if user.is_some() && place.user.as_ref() == user => {
                place.teams.is_empty() || matches!(self, Reach::User(_)) || self.covers(target, true)
            }
            _ => false,
        }
    }

    fn words(&self) -> String {
        match self {
            Reach::Everything => "everything".to_owned(),
            Reach::Organisation(name) => format!("organisation {name}"),
            Reach::Team(name) => format!("team {name}"),
            Reach::User(name) => format!("user {name}"),
        }
    }
}

impl Place {
    fn words(&self) -> String {
        let mut parts: Vec<String> = self.teams.iter().map(Membership::words).collect();
        parts.extend(self.user.iter().map(|user| format!("user {user}")));
        if parts.is_empty() { "what belongs to no team".to_owned() } else { parts.join(", ") }
    }
}

impl Membership {
    fn words(&self) -> String {
        match (&self.team, &self.organisation) {
            (Some(team), _) => format!("team {team}"),
            (None, Some(organisation)) => format!("organisation {organisation}"),
            (None, None) => "no team".to_owned(),
        }
    }
}

fn missing(actor: &Actor, operation: Operation, target: &Target) -> Error {
    let over = match target {
        Target::Gateway => "the whole gateway".to_owned(),
        Target::Common => "anything".to_owned(),
        Target::Of(place) => place.words(),
    };
    let able: Vec<&str> =
        Role::ALL.into_iter().filter(|role| operation.cell(*role) == Cell::All).map(Role::name).collect();
    let message = format!(
        "{} ({}) lacks the permission {} over {over}: to {} there takes {}",
        actor.name,
        actor.roles(),
        operation.name(),
        operation.meaning(),
        able.join(", ")
    );
    Error::new(Kind::Forbidden, message).with_code(NOT_PERMITTED)
}

/// The table as the README shows it.
pub fn table() -> String {
    let mut out = String::from(
        "| permission | to | owner | admin | operator | developer | viewer | billing |\n|---|---|---|---|---|---|---|---|\n",
    );
    for operation in Operation::ALL {
        let cells = operation.row().map(|cell| match cell {
            Cell::No => "",
            Cell::Own => "own",
            Cell::All => "all",
        });
        out.push_str(&format!("| `{}` | {} | {} |\n", operation.name(), operation.meaning(), cells.join(" | ")));
    }
    out
}

const NOT_PERMITTED: &str = "not_permitted";
