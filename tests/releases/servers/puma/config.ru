# What puma loads, in each worker.
require_relative 'application'

run Application
