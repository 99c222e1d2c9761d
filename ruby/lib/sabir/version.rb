# frozen_string_literal: true

module Sabir
  # The version of this port. The protocol has its own: {Messages::VERSION}.
  VERSION = "0.1.0"
end
