# frozen_string_literal: true

require_relative "commands"
require_relative "connection"

module Sabir
  # Whether a worker may judge others by their leases [SABIR-RECOVER-7]: after an outage, or a pause of its own, all of
  # them look ended. Pure: moments are seconds of any clock that never jumps.
  # @api private
  class GracePeriod
    LEASE_S = Commands::LEASE_MS / 1000.0
    GAP_S = 4.0 # the longest between two heartbeats

    # A heartbeat has been answered.
    # @param sent [Float] when it was sent
    # @param lost [Boolean] whether the worker's own lease had ended
    def answered(sent, lost:)
      @since = sent if lost || gap?(sent)
      @last = sent
    end

    # @param now [Float] when the next heartbeat is sent
    # @return [Boolean] whether that one may recover
    def over?(now) = !gap?(now) && now - @since >= LEASE_S

    private

    def gap?(now) = @last.nil? || now - @last > GAP_S
  end

  # Keeps a worker's lease, in a connection of its own, and recovers what lost workers held.
  # @api private
  class Heartbeat
    MARGIN_S = 2.0 # how long Redis may take to answer
    MORE_S = 0.05 # until the next one, when there is more to recover [SABIR-RECOVER-9]

    # @return [Integer] how often the lease had ended when it was renewed [SABIR-LEASE-3]
    attr_reader :losses

    def initialize(line, keys, worker, clock, logger, grace: GracePeriod.new)
      @line = line
      @keys = keys
      @worker = worker
      @clock = clock
      @logger = logger
      @grace = grace
      @losses = -1 # the first one finds none
    end

    # @return [Float] seconds until the next one is due
    # @raise [Connection::Lost, Connection::Refused]
    def beat
      @line.open? || @line.reopen(MARGIN_S)
      judges = @grace.over?(Clock.monotonic)
      *time, lost, recovered, more = @line.script(Commands.heartbeat(@keys, @worker, judges).first, MARGIN_S)
      @clock.set(time, @line.sent)
      @grace.answered(@line.sent, lost: lost == 1)
      lease_ended if lost == 1
      @logger.warn("#{@keys.service}: recovered #{recovered} requests of lost workers") if recovered.positive?
      pause = more == 1 ? MORE_S : Commands::HEARTBEAT_MS / 1000.0
      [@line.sent + pause - Clock.monotonic, 0.01].max
    end

    private

    def lease_ended
      @losses += 1
      @logger.warn("#{@keys.service}: the lease of #{@worker} had ended") if @losses.positive?
    end
  end
end
