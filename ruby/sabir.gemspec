# frozen_string_literal: true

require_relative "lib/sabir/version"

Gem::Specification.new do |spec|
  spec.name = "sabir"
  spec.version = Sabir::VERSION
  spec.authors = ["The Sabir maintainers"]
  spec.summary = "RPC between programs in different languages over the Redis that you already have"
  spec.license = "MIT"
  spec.required_ruby_version = ">= 3.0"
  spec.files = Dir["lib/**/*.{rb,lua}", "examples/*.rb", "README.md"]
  spec.add_dependency "redis", ">= 4.8", "< 6"
  spec.metadata["rubygems_mfa_required"] = "true"
end
