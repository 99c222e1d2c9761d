# frozen_string_literal: true

require_relative "../sabir"

module Sabir
  # For the tests of programs that use Sabir: no Redis, no threads, the same checks and the same errors.
  module Testing
    # A client whose calls are run by servers of the same process, at once and in the caller's thread.
    #
    #   server = Sabir::Server.new("calc").register("add") { |a, b| a + b }
    #   Sabir::Testing::Client.new(server).service("calc").add(1, 2) # => 3
    class Client < Sabir::Client
      WORKER = "testing.1"

      # @return [Array<Hash>] what would lie in the services' dead letters
      attr_reader :dead

      # @param servers [Array<Server>] not started
      # @param options [Hash] those of {Sabir::Client#initialize}
      def initialize(*servers, **options)
        super(**options)
        @servers = servers.to_h { |server| [server.service, server] }
        @dead = []
        @clock.set([Time.now.to_i, 0])
      end

      private

      def deliver(keys, token, ids, limit, _idempotent)
        elements = yield(@clock.now_ms, limit)
        error, = unserved(keys)
        return ids.map { token && error } if error # a notification waits until somebody serves

        elements.map do |element|
          outcome = @servers[keys.service].dispatcher.process(element, WORKER, @clock) { 0 }
          @dead << JSON.parse(outcome.letter) if outcome.letter
          reply = outcome.reply && Messages.decode_reply(outcome.reply, own: @errors)
          reply && (reply.error || reply.result)
        end
      end

      def unserved(keys, _finish = nil)
        [ServiceUnavailable.new("no worker serves #{keys.service}"), false] unless @servers.key?(keys.service)
      end
    end
  end
end
