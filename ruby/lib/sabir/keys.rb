# frozen_string_literal: true

module Sabir
  # Every Redis key of one service; nobody else spells one [SABIR-KEY-1]. Pure.
  #
  #   Keys.new("sabir", "calc").requests # => "sabir:{calc}:requests"
  class Keys
    # The grammars of the specification's section 3: they match whole names, in ASCII.
    GRAMMAR = {
      namespace: /\A[A-Za-z0-9_.-]{1,128}\z/,
      service: /\A[A-Za-z0-9_-]{1,128}\z/,
      name: /\A[A-Za-z0-9_-]{1,64}\z/,
      token: /\A[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,63}\z/,
      worker: /\A[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,63}\z/,
      id: /\A[0-9a-f]{32}\z/,
      method: /\A[!-~]{1,128}\z/
    }.freeze

    # @param kind [Symbol] one of {GRAMMAR}'s
    # @return [Boolean] whether the value is a String of the kind's grammar
    def self.valid?(kind, value)
      value.is_a?(String) && value.ascii_only? && GRAMMAR.fetch(kind).match?(value)
    end

    # @return [String] the value itself
    # @raise [ArgumentError] it is outside its grammar [SABIR-KEY-2]
    def self.check(kind, value)
      return value if valid?(kind, value)

      raise ArgumentError, "#{kind}: expected #{GRAMMAR.fetch(kind).source[2..-3]}, got #{value.inspect[0, 160]}"
    end

    attr_reader :namespace, :service

    # @return [String] list: elements that wait
    attr_reader :requests

    # @return [String] string that exists while at least one worker serves
    attr_reader :alive

    # @return [String] sorted set: worker, and when its lease ends
    attr_reader :leases

    # @return [String] list: dead letters
    attr_reader :dead

    # @raise [ArgumentError] a part is outside its grammar [SABIR-KEY-2]; so do all that take one
    def initialize(namespace, service)
      @namespace = Keys.check(:namespace, namespace)
      @service = Keys.check(:service, service)
      @prefix = "#{namespace}:{#{service}}" # the braces are Redis's hash tag: one slot for all of a service
      @requests, @alive, @leases, @dead = %w[requests alive leases dead].map { |part| "#{@prefix}:#{part}".freeze }
      @hands = {} # a worker asks for its own again and again
      freeze
    end

    # @return [String] list: the hand of one worker
    def active(worker) = @hands[worker] ||= "#{@prefix}:active:#{Keys.check(:worker, worker)}"

    # @return [String] list: the replies for one token; no key ever comes over the wire [SABIR-TOKEN-2]
    def reply(token) = "#{@prefix}:reply:#{Keys.check(:token, token)}"

    # @return [String] string: how many deliveries of a request were lost with their worker
    def attempts(id) = "#{@prefix}:attempts:#{Keys.check(:id, id)}"
  end
end
