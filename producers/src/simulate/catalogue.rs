//! What the simulated shop sells, in which currency, to which countries.

use super::dice::Dice;
use super::events::{Id, Minor, ProductChanged, Text};

/// Each product is sold in one currency, to the countries that pay with it.
pub(super) const PRODUCTS: usize = 240;

const CURRENCIES: [&str; 3] = ["EUR", "GBP", "USD"];
const CATEGORIES: [&str; 6] = ["lighting", "seating", "storage", "textiles", "kitchen", "garden"];
const LOOKS: [&str; 8] = ["oak", "walnut", "linen", "steel", "brass", "sage", "ivory", "slate"];
const THINGS: [[&str; 4]; 6] = [
    ["desk lamp", "floor lamp", "pendant", "candle holder"],
    ["stool", "armchair", "bench", "dining chair"],
    ["shelf", "sideboard", "box", "coat rack"],
    ["throw", "cushion", "rug", "curtain"],
    ["bowl", "carafe", "cutting board", "mug"],
    ["planter", "watering can", "lantern", "deck chair"],
];
/// Prices and stock when the shop opens.
const PRICES: std::ops::RangeInclusive<i64> = 9..=249;
const STOCK: std::ops::RangeInclusive<i64> = 20..=400;

pub(super) struct Country {
    pub code: &'static str,
    pub locale: &'static str,
    /// Index of its currency.
    pub storefront: usize,
}

pub(super) const COUNTRIES: [Country; 8] = [
    Country { code: "DE", locale: "de-DE", storefront: 0 },
    Country { code: "DE", locale: "en-DE", storefront: 0 },
    Country { code: "FR", locale: "fr-FR", storefront: 0 },
    Country { code: "NL", locale: "nl-NL", storefront: 0 },
    Country { code: "AT", locale: "de-AT", storefront: 0 },
    Country { code: "GB", locale: "en-GB", storefront: 1 },
    Country { code: "US", locale: "en-US", storefront: 2 },
    Country { code: "US", locale: "es-US", storefront: 2 },
];

impl Country {
    pub fn currency(&self) -> &'static str {
        CURRENCIES[self.storefront]
    }
}

pub(super) struct Product {
    pub product_id: Id,
    pub path: String,
    pub category: &'static str,
    pub price: Minor,
    pub currency: &'static str,
    title: String,
    stock: i32,
}

impl Product {
    pub fn changed(&self) -> ProductChanged {
        ProductChanged {
            product_id: self.product_id,
            title: self.title.clone().into(),
            category: self.category.into(),
            price: self.price,
            currency: self.currency.into(),
            stock: self.stock,
        }
    }
}

pub(super) struct Catalogue(Vec<Product>);

impl Catalogue {
    pub fn new(dice: &mut Dice) -> Self {
        Self((0..PRODUCTS).map(|number| product(number, dice)).collect())
    }

    pub fn get(&self, index: usize) -> &Product {
        &self.0[index]
    }

    /// Any product of a storefront: they take turns in the list.
    pub fn pick(&self, storefront: usize, dice: &mut Dice) -> usize {
        dice.below((PRODUCTS / CURRENCIES.len()) as u64) as usize * CURRENCIES.len() + storefront
    }

    pub fn take(&mut self, index: usize, quantity: i32) {
        let product = &mut self.0[index];
        product.stock = (product.stock - quantity).max(0);
    }

    /// A new price, or a delivery to the warehouse.
    pub fn change(&mut self, dice: &mut Dice) -> ProductChanged {
        let product = &mut self.0[dice.below(PRODUCTS as u64) as usize];
        if dice.percent(50) {
            product.price = (product.price * dice.between(85..=118) / 100).clamp(500, 50_000);
        } else {
            product.stock = product.stock.max(0) % 1000 + dice.between(10..=120) as i32;
        }
        product.changed()
    }
}

fn product(number: usize, dice: &mut Dice) -> Product {
    let kind = dice.index(&CATEGORIES);
    let (look, thing) = (dice.pick(&LOOKS), dice.pick(&THINGS[kind]));
    let mut title = format!("{thing}, {look}, no. {number}");
    title[..1].make_ascii_uppercase();
    Product {
        product_id: dice.id(),
        path: format!("/products/{}-{look}-{number}", thing.replace(' ', "-")),
        category: CATEGORIES[kind],
        price: dice.between(PRICES) * 100 - 10,
        currency: CURRENCIES[number % CURRENCIES.len()],
        title,
        stock: dice.between(STOCK) as i32,
    }
}

const FIRST_NAMES: [&str; 12] =
    ["Marta", "Jonas", "Aylin", "Pieter", "Claire", "Tom", "Ines", "Noah", "Lucía", "Emil", "Zoë", "Bram"];
const LAST_NAMES: [&str; 10] =
    ["Keller", "Novak", "Yilmaz", "de Vries", "Martin", "O'Brien", "Okafor", "Müller", "García", "Lindqvist"];

/// A person's name and an address that belongs to nobody.
pub(super) fn name_and_email(dice: &mut Dice) -> (Text, Text) {
    let (first, last) = (dice.pick(&FIRST_NAMES), dice.pick(&LAST_NAMES));
    let email = format!("customer-{:010x}@example.com", dice.below(1 << 40));
    (format!("{first} {last}").into(), email.into())
}
