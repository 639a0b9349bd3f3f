//! Regions of calls, as boxes: callers × API clients × users × claims of the callers × callers that the
//! tokens of sealed logins were issued to.
//!
//! The rules that apply to a box are subtracted from it one after the other. A rule that covers the
//! box in all parts leaves nothing, and rules that cover it in all parts but one leave one box.
//! Only a rule that covers it in fewer parts splits it. Each box is then compared only with the rules
//! that may apply to it, so that rules which have nothing to do with each other cost nothing.

use std::rc::Rc;

use super::{
    atoms::{AtomId, Atoms},
    bits::Bits,
    catalog::{Catalog, Reach, Scope, ScopeId},
    claim_set::{ClaimSet, ClaimTable},
    name_set::{Dimension, NameSet},
    names::Space,
    search::{Budget, Exhausted},
};

/// Maximum number of boxes that are left of one rule.
const MAX_REGIONS: usize = 2_000;

/// Calls of one kind.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) callers: NameSet,
    pub(super) api_clients: Bits,
    pub(super) users: NameSet,
    pub(super) claims: ClaimSet,
    /// `None` if this is not compared.
    pub(super) issuers: Option<NameSet>,
}

/// The names that calls consist of, and the work that may still be done with them.
#[derive(Debug)]
pub(super) struct World {
    pub(super) callers: Dimension,
    pub(super) users: Dimension,
    pub(super) issuers: Dimension,
    pub(super) claims: ClaimTable,
    pub(super) budget: Budget,
}

/// The rules to subtract.
#[derive(Clone, Copy, Debug)]
pub(super) struct Others<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) scopes: &'a Bits,
}

/// What is left of a rule.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Boxes without a common call.
    pub(super) regions: Vec<Region>,
    /// The rules that were subtracted.
    pub(super) used: Bits,
}

/// How much of the rest to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    All,
    /// At most one box, to decide whether there is any.
    Any,
}

/// The parts of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Callers,
    ApiClients,
    Users,
    Claims,
    Issuers,
}

const PARTS: [Part; 5] = [Part::Callers, Part::ApiClients, Part::Users, Part::Claims, Part::Issuers];
/// The parts of calls of which the issuer is not compared.
const PARTS_WITHOUT_ISSUERS: [Part; 4] = [Part::Callers, Part::ApiClients, Part::Users, Part::Claims];

/// A box, with the rules that concern each of its parts.
#[derive(Clone, Debug)]
struct Piece {
    region: Region,
    /// In the order of [`PARTS`].
    reach: [Rc<Reach>; 5],
    /// The rules that may apply to it, and are not subtracted yet.
    open: Bits,
}

impl World {
    /// Creates a world with these names of `anonymous` and tokens.
    pub(super) fn new(listed_callers: Vec<String>, budget: Budget) -> Self {
        Self {
            callers: Dimension { atoms: Atoms::default(), spaces: &Space::CALLERS, listed: listed_callers },
            users: Dimension::users(),
            issuers: Dimension::issuers(),
            claims: ClaimTable::new(),
            budget,
        }
    }

    /// Returns the calls of a rule that no other rule applies to.
    pub(super) fn rest(&self, rule: ScopeId, others: Others<'_>, wanted: Wanted) -> Result<Rest, Exhausted> {
        let Some(whole) = self.whole(others.catalog.get(rule))? else { return Ok(Rest::default()) };
        self.without(whole, others, wanted)
    }

    /// Returns the calls of a region that no rule applies to.
    pub(super) fn without(
        &self,
        region: Region,
        others: Others<'_>,
        wanted: Wanted,
    ) -> Result<Rest, Exhausted> {
        let mut rest = Rest::default();
        let first = self.piece(region, others)?;
        if wanted == Wanted::Any && self.has_obvious_call(&first, others.catalog)? {
            rest.regions.push(first.region);
            return Ok(rest);
        }
        let mut pieces = vec![first];
        while let Some(piece) = pieces.pop() {
            let before = pieces.len();
            if let Some(region) = self.subtract(piece, others.catalog, &mut pieces, &mut rest.used)? {
                if rest.regions.len() == MAX_REGIONS {
                    return Err(Exhausted);
                }
                rest.regions.push(region);
                if wanted == Wanted::Any {
                    return Ok(rest);
                }
            }
            // The first piece is the next one.
            pieces[before..].reverse();
        }
        Ok(rest)
    }

    /// Returns whether one call of a rule, chosen without the other rules in mind, is obviously in
    /// none of them. This is so for most rules, and needs no boxes.
    fn has_obvious_call(&self, piece: &Piece, catalog: &Catalog) -> Result<bool, Exhausted> {
        let Self { callers, users, claims, issuers, budget } = self;
        let Region { callers: of_callers, api_clients, users: of_users, claims: of_claims, .. } =
            &piece.region;
        let Some(met) = claims.met_by_example(of_claims, budget)? else { return Ok(false) };
        let Some(api_client) = api_clients.first() else { return Ok(false) };
        let Some(caller) = callers.member(of_callers, budget)? else { return Ok(false) };
        let Some(user) = users.member(of_users, budget)? else { return Ok(false) };
        let issuer = match &piece.region.issuers {
            Some(of_issuers) => issuers.member(of_issuers, budget)?,
            None => None,
        };
        let is_issued_by = |other: &Scope| match (&issuer, &other.issuers) {
            (Some(issuer), Some(atoms)) => issuers.is_in_any(atoms, issuer, budget),
            _ => Ok(true),
        };
        let mut others = catalog.with_claims(&met);
        others.keep(&piece.open);
        for other in others.iter().map(|id| catalog.get(id)) {
            if other.api_clients.contains(api_client)
                && users.is_in_any(&other.users, &user, budget)?
                && callers.is_in_any(&other.callers, &caller, budget)?
                && is_issued_by(other)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns which scopes concern a region.
    pub(super) fn meeting(&self, region: &Region, catalog: &Catalog) -> Result<Bits, Exhausted> {
        let scopes = catalog.all();
        Ok(self.piece(region.clone(), Others { catalog, scopes: &scopes })?.open)
    }

    /// Returns all calls of a rule, or `None` if there are none.
    pub(super) fn whole(&self, rule: &Scope) -> Result<Option<Region>, Exhausted> {
        let callers = self.callers.union(&rule.callers);
        let users = self.users.union(&rule.users);
        let claims = ClaimSet::default();
        let issuers = rule.issuers.as_ref().map(|atoms| self.issuers.union(atoms));
        self.common(&Region { callers, api_clients: rule.api_clients.clone(), users, claims, issuers }, rule)
    }

    /// Returns the calls of a region that a rule applies to, or `None` if there are none.
    pub(super) fn common(&self, region: &Region, rule: &Scope) -> Result<Option<Region>, Exhausted> {
        let mut common = region.clone();
        for part in [Part::ApiClients, Part::Claims, Part::Callers, Part::Users, Part::Issuers] {
            match self.common_part(&common, rule, part)? {
                Some(region) => common = region,
                None => return Ok(None),
            }
        }
        Ok(Some(common))
    }

    /// Returns a region with the members of one part that are also in that of a rule, or `None` if
    /// there are none.
    fn common_part(&self, region: &Region, rule: &Scope, part: Part) -> Result<Option<Region>, Exhausted> {
        let Self { callers, users, claims: table, issuers, budget } = self;
        Ok(match part {
            Part::Callers => {
                let callers = callers.common(&region.callers, &rule.callers, budget)?;
                callers.map(|callers| Region { callers, ..region.clone() })
            }
            Part::ApiClients => {
                let api_clients = region.api_clients.and(&rule.api_clients);
                (!api_clients.is_empty()).then(|| Region { api_clients, ..region.clone() })
            }
            Part::Users => {
                let users = users.common(&region.users, &rule.users, budget)?;
                users.map(|users| Region { users, ..region.clone() })
            }
            Part::Claims => {
                let claims = region.claims.common(rule.claims, table, budget)?;
                claims.map(|claims| Region { claims, ..region.clone() })
            }
            Part::Issuers => match (&region.issuers, &rule.issuers) {
                (Some(set), Some(atoms)) => {
                    let issuers = issuers.common(set, atoms, budget)?;
                    issuers.map(|issuers| Region { issuers: Some(issuers), ..region.clone() })
                }
                _ => Some(region.clone()),
            },
        })
    }

    /// Returns a region with the members of one part that are not in those of some rules, or `None` if
    /// there are none.
    fn rest_of_part(
        &self,
        region: &Region,
        rules: &Bits,
        catalog: &Catalog,
        part: Part,
    ) -> Result<Option<Region>, Exhausted> {
        let Self { callers, users, claims: table, issuers, budget } = self;
        let scopes = || rules.iter().map(|id| catalog.get(id));
        Ok(match part {
            Part::Callers => {
                let atoms: Vec<AtomId> = scopes().flat_map(|scope| scope.callers.iter().copied()).collect();
                let callers = callers.rest(&region.callers, &atoms, budget)?;
                callers.map(|callers| Region { callers, ..region.clone() })
            }
            Part::ApiClients => {
                let mut api_clients = region.api_clients.clone();
                scopes().for_each(|scope| api_clients.subtract(&scope.api_clients));
                (!api_clients.is_empty()).then(|| Region { api_clients, ..region.clone() })
            }
            Part::Users => {
                let atoms: Vec<AtomId> = scopes().flat_map(|scope| scope.users.iter().copied()).collect();
                let users = users.rest(&region.users, &atoms, budget)?;
                users.map(|users| Region { users, ..region.clone() })
            }
            Part::Claims => {
                let ids: Bits = scopes().map(|scope| scope.claims).collect();
                let claims = region.claims.rest(&ids, table, budget)?;
                claims.map(|claims| Region { claims, ..region.clone() })
            }
            Part::Issuers => {
                let Some(set) = &region.issuers else { return Ok(None) };
                let mut atoms: Vec<AtomId> = Vec::new();
                for scope in scopes() {
                    let Some(of_scope) = &scope.issuers else { return Ok(None) };
                    atoms.extend(of_scope.iter());
                }
                let issuers = issuers.rest(set, &atoms, budget)?;
                issuers.map(|issuers| Region { issuers: Some(issuers), ..region.clone() })
            }
        })
    }

    fn reach(&self, region: &Region, catalog: &Catalog, part: Part) -> Result<Rc<Reach>, Exhausted> {
        let Self { callers, users, claims, issuers, budget } = self;
        match part {
            Part::Callers => catalog.reach_of_callers(&region.callers, &callers.atoms, budget),
            Part::ApiClients => Ok(catalog.reach_of_api_clients(&region.api_clients)),
            Part::Users => catalog.reach_of_users(&region.users, &users.atoms, budget),
            Part::Claims => catalog.reach_of_claims(&region.claims, claims, budget),
            Part::Issuers => catalog.reach_of_issuers(region.issuers.as_ref(), &issuers.atoms, budget),
        }
    }

    fn piece(&self, region: Region, others: Others<'_>) -> Result<Piece, Exhausted> {
        let reach = |part| self.reach(&region, others.catalog, part);
        let reach = [
            reach(Part::Callers)?,
            reach(Part::ApiClients)?,
            reach(Part::Users)?,
            reach(Part::Claims)?,
            reach(Part::Issuers)?,
        ];
        let mut open = others.scopes.clone();
        for reach in &reach {
            open.keep(&reach.meets);
        }
        Ok(Piece { region, reach, open })
    }

    /// Returns the piece with another part.
    fn with_part(
        &self,
        piece: &Piece,
        region: Region,
        part: Part,
        catalog: &Catalog,
    ) -> Result<Piece, Exhausted> {
        let reach = self.reach(&region, catalog, part)?;
        let mut open = piece.open.clone();
        open.keep(&reach.meets);
        let mut all = piece.reach.clone();
        all[part as usize] = reach;
        Ok(Piece { region, reach: all, open })
    }

    /// Subtracts rules from a piece: returns what is left, or adds the pieces that it is split into.
    fn subtract(
        &self,
        mut piece: Piece,
        catalog: &Catalog,
        pieces: &mut Vec<Piece>,
        used: &mut Bits,
    ) -> Result<Option<Region>, Exhausted> {
        let parts = piece.region.parts();
        'changed: loop {
            if piece.open.is_empty() {
                return Ok(Some(piece.region));
            }
            self.budget.spend(20 + catalog.len() / 4)?;
            let covering = |except: Option<Part>| {
                let mut scopes = piece.open.clone();
                for &part in parts.iter().filter(|part| Some(**part) != except) {
                    scopes.keep(&piece.reach[part as usize].covers);
                }
                scopes
            };
            if let Some(scope) = covering(None).first() {
                used.insert(scope);
                return Ok(None);
            }
            for &part in parts {
                let scopes = covering(Some(part));
                if scopes.is_empty() {
                    continue;
                }
                used.add(&scopes);
                let Some(region) = self.rest_of_part(&piece.region, &scopes, catalog, part)? else {
                    return Ok(None);
                };
                piece.open.subtract(&scopes);
                piece = self.with_part(&piece, region, part, catalog)?;
                continue 'changed;
            }
            let scope = piece.fewest_pieces();
            piece.open.remove(scope);
            if self.split(&piece, scope, catalog, pieces)? {
                used.insert(scope);
                return Ok(None);
            }
        }
    }

    /// Splits a piece into those parts to which a rule does not apply. Returns `false` if it applies
    /// to none of its calls.
    fn split(
        &self,
        piece: &Piece,
        scope: ScopeId,
        catalog: &Catalog,
        pieces: &mut Vec<Piece>,
    ) -> Result<bool, Exhausted> {
        let rule = catalog.get(scope);
        let only: Bits = std::iter::once(scope).collect();
        let mut found = Vec::new();
        let mut rest = piece.clone();
        for part in PARTS.into_iter().filter(|part| !piece.reach[*part as usize].covers.contains(scope)) {
            let Some(common) = self.common_part(&rest.region, rule, part)? else { return Ok(false) };
            if let Some(others) = self.rest_of_part(&rest.region, &only, catalog, part)? {
                found.push(self.with_part(&rest, others, part, catalog)?);
            }
            rest = self.with_part(&rest, common, part, catalog)?;
        }
        pieces.append(&mut found);
        Ok(true)
    }
}

impl Region {
    /// Returns the parts that rules can limit.
    fn parts(&self) -> &'static [Part] {
        if self.issuers.is_some() { &PARTS } else { &PARTS_WITHOUT_ISSUERS }
    }
}

impl Piece {
    /// Returns the rule that covers a piece in most parts. There is one.
    fn fewest_pieces(&self) -> ScopeId {
        let covered = |scope: ScopeId| self.reach.iter().filter(|reach| reach.covers.contains(scope)).count();
        let mut found = (0, 0);
        for (at, scope) in self.open.iter().enumerate() {
            let covered = covered(scope);
            if at == 0 || covered > found.0 {
                found = (covered, scope);
            }
        }
        found.1
    }
}
