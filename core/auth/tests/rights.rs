//! The table of permissions, walked: every operation, every role, over what is held, over what is not, and on one's own.

use std::sync::Arc;

use crate::{
    auth::permission::{
        Actor, Cell, Held, Membership, Operation, Place, Reach, Target, covered, may_give, permits, table,
    },
    config::{Grant, Over, Role},
};

fn of(organisation: Option<&str>, team: Option<&str>, user: Option<&str>) -> Target {
    let membership = Membership { organisation: organisation.map(Arc::from), team: team.map(Arc::from) };
    let teams = if organisation.is_some() || team.is_some() { vec![membership] } else { Vec::new() };
    Target::Of(Place { teams, user: user.map(Arc::from) })
}

fn actor(role: Role, reach: Reach) -> Actor {
    let holds = [Held { role, reach }].into();
    Actor { name: "ada".into(), user: Some("ada".into()), holds, ..Actor::default() }
}

#[test]
fn every_operation_and_role_is_bound_to_its_scope() {
    let mut walked = 0;
    for &operation in Operation::ALL {
        for role in Role::ALL {
            let cell = operation.cell(role);
            let reaches = [
                Reach::Everything,
                Reach::Organisation("acme".into()),
                Reach::Team("hr".into()),
                Reach::User("ada".into()),
            ];
            for reach in reaches {
                let actor = actor(role, reach.clone());
                let may = |target: &Target| permits(&actor, operation, target).is_ok();
                let everything = reach == Reach::Everything;
                let alone = matches!(reach, Reach::User(_));
                // What is somebody else's in the actor's own scope.
                let (inside, foreign) =
                    (of(Some("acme"), Some("hr"), Some("bob")), of(Some("other"), Some("it"), Some("bob")));
                assert_eq!(may(&inside), cell == Cell::All && !alone, "{operation:?} {role:?} {reach:?} inside");
                assert_eq!(may(&foreign), cell == Cell::All && everything, "{operation:?} {role:?} {reach:?} outside");
                // One's own, inside and outside of the scope.
                let (own, stray) =
                    (of(Some("acme"), Some("hr"), Some("ada")), of(Some("other"), Some("it"), Some("ada")));
                assert_eq!(may(&own), cell != Cell::No, "{operation:?} {role:?} {reach:?} own");
                assert_eq!(
                    may(&stray),
                    cell != Cell::No && (everything || alone),
                    "{operation:?} {role:?} {reach:?} stray"
                );
                assert_eq!(may(&Target::Gateway), cell == Cell::All && everything, "{operation:?} {role:?} {reach:?}");
                assert_eq!(may(&Target::Common), cell != Cell::No, "{operation:?} {role:?} {reach:?}");
                assert_eq!(may(&of(None, None, None)), cell == Cell::All && everything, "what is nobody's");
                walked += 7;
            }
        }
    }
    assert_eq!(walked, Operation::ALL.len() * 6 * 4 * 7);
    let nobody = Actor::default();
    for &operation in Operation::ALL {
        assert!(permits(&nobody, operation, &Target::Common).is_err(), "denied by default");
    }
}

#[test]
fn what_is_read_may_lie_in_part_outside_and_what_is_changed_may_not() {
    let both = Target::Of(Place {
        teams: ["hr", "it"].map(|team| Membership { organisation: None, team: Some(team.into()) }).to_vec(),
        user: Some("bob".into()),
    });
    let admin = actor(Role::Admin, Reach::Team("hr".into()));
    assert!(permits(&admin, Operation::ReadUsers, &both).is_ok());
    assert!(permits(&admin, Operation::ChangeUsers, &both).is_err());
}

#[test]
fn an_owner_may_everything_and_every_role_less() {
    for &operation in Operation::ALL {
        assert_eq!(operation.cell(Role::Owner), Cell::All, "{operation:?}");
        for role in Role::ALL {
            assert!(operation.cell(Role::Owner) >= operation.cell(role));
        }
    }
    for role in [Role::Viewer, Role::Billing] {
        assert_eq!(Operation::CallModels.cell(role), Cell::No);
    }
    let changing = Operation::ALL.iter().filter(|operation| operation.changes());
    assert!(changing.into_iter().all(|operation| operation.cell(Role::Viewer) == Cell::No), "a viewer changes nothing");
}

#[test]
fn roles_are_given_only_by_who_holds_them() {
    let lies = |reach: &Reach| match reach {
        Reach::Everything => Target::Gateway,
        Reach::Organisation(name) => of(Some(name), None, None),
        Reach::Team(name) => of(Some("acme"), Some(name), None),
        Reach::User(name) => of(Some("acme"), Some("hr"), Some(name)),
    };
    let gives = |own: Held, wanted: Held| {
        let actor = Actor { holds: [own].into(), ..Actor::default() };
        may_give(&actor, &[wanted], lies).is_ok()
    };
    let held = |role, reach| Held { role, reach };
    let (team, other) = (Reach::Team("hr".into()), Reach::Team("it".into()));
    assert!(gives(held(Role::Admin, team.clone()), held(Role::Developer, team.clone())));
    assert!(gives(held(Role::Admin, team.clone()), held(Role::Admin, team.clone())));
    assert!(!gives(held(Role::Admin, team.clone()), held(Role::Owner, team.clone())), "a higher one");
    assert!(!gives(held(Role::Admin, team.clone()), held(Role::Viewer, other)), "over another team");
    assert!(!gives(held(Role::Admin, team.clone()), held(Role::Viewer, Reach::Everything)), "over more");
    assert!(gives(held(Role::Admin, Reach::Organisation("acme".into())), held(Role::Viewer, team.clone())));
    assert!(!gives(held(Role::Developer, team.clone()), held(Role::Billing, team.clone())), "what it does not include");
    assert!(!gives(held(Role::Billing, team.clone()), held(Role::Developer, team)));
    assert!(covered(&[held(Role::Owner, Reach::Everything)], &held(Role::Owner, Reach::Everything), &Target::Gateway));
}

#[test]
fn a_refusal_names_the_permission_and_who_has_it() {
    let error =
        permits(&actor(Role::Viewer, Reach::Team("hr".into())), Operation::CreateKeys, &of(None, Some("hr"), None));
    let error = error.unwrap_err();
    assert_eq!((error.status(), error.code()), (403, "not_permitted"));
    for word in ["ada", "viewer", "keys.create", "team hr", "owner, admin"] {
        assert!(error.message.contains(word), "{word}: {}", error.message);
    }
}

#[test]
fn the_readme_shows_the_table_as_it_is() {
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&table()), "the chapter \"Who may do what\" of README.md must hold:\n{}", table());
}

#[test]
fn roles_are_read_as_people_write_them() {
    let read = |text: &str| Grant::parse(text).map(|grant| (grant.role, grant.over));
    assert_eq!(read("developer"), Ok((Role::Developer, Over::Belonging)));
    assert_eq!(read("owner@everything"), Ok((Role::Owner, Over::Everything)));
    assert_eq!(read("admin@team:hr"), Ok((Role::Admin, Over::Team("hr".into()))));
    assert_eq!(read("viewer@organisation:acme"), Ok((Role::Viewer, Over::Organisation("acme".into()))));
    assert_eq!(read("billing@self"), Ok((Role::Billing, Over::Oneself)));
    for text in ["developer", "owner@everything", "admin@team:hr", "viewer@organisation:acme", "billing@self"] {
        assert_eq!(Grant::parse(text).unwrap().to_string(), text);
    }
    assert!(Grant::parse("develper").unwrap_err().contains("developer"));
    for bad in ["", "root", "admin@", "admin@team", "admin@team:", "admin@team: hr", "admin@world", "Owner"] {
        assert!(Grant::parse(bad).is_err(), "{bad}");
    }
}
