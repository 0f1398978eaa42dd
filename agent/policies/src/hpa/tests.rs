mod adapter;
mod normalize;
mod replica_calculator;
