# frozen_string_literal: true

require_relative "sabir/version"
require_relative "sabir/errors"
require_relative "sabir/keys"
require_relative "sabir/messages"
require_relative "sabir/commands"
require_relative "sabir/connection"
require_relative "sabir/client"
require_relative "sabir/server"

# RPC between programs in different languages over a Redis that is already there.
#
#   calc = Sabir::Client.new(url: "redis://127.0.0.1:6379/0").service("calc")
#   calc.add(1, 2) # => 3
#
# What is said on the wire, and every id in brackets ([SABIR-CALL-1]), is in protocol/spec.md.
module Sabir
  # @return [Context, nil] the request that this thread's handler is running; nil outside a handler
  def self.context = Context.current
end
